"""Comparisons of arms with their baseline, and of all pairs of arms, with simultaneous intervals.

The default estimates the spread of a difference from the two arms compared (Welch 1938, "The significance of the difference
between two means when the population variances are unequal", Biometrika 29) and adjusts the intervals by Sidak's level.
`variances="equal"` selects Dunnett's test, which pools the spread of all arms, for arms that are known to vary alike.

The data do not choose between the two, because with five seeds no test of variances reliably detects a factor of 3. In simulated
sweeps of a baseline and five arms, five runs each, all five intervals cover the truth this often (1500 to 3500 sweeps, percent):

    standard deviations              Dunnett   Bartlett's test chooses   Welch and Sidak
    all equal                             95                        96                97
    the baseline's 3 times the rest       82                        89                98
    one arm's 4 times the rest            87                        92                96
    .25, .5, 1, 2, 4 times                88                        94                96
    the baseline's a fifth of the rest    98                        93                94

The price is width: 29 % more than Dunnett's where the spreads are equal. The last row is the worst case, because Welch's degrees
of freedom come from estimated variances. The multivariate t of Hasler & Hothorn (2008, Biometrical Journal 50) is 8 % narrower,
but covers 92 % to 96 %.

Runs are treated as independent. A seed shared by two arms may correlate their runs; `train.report.statistics.pairing` measures
how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from scipy import optimize, stats

from train.report.contracts import Comparison, Method, Pairwise, Probability, Sample
from train.report.statistics.intervals import effect_numbers, holm, sidak, unadjusted_p
from train.report.statistics.max_t import largest_t_quantile, largest_t_tail, range_quantile, range_tail
from train.report.statistics.moments import Contrast, SampleMoments, Variances, contrast, moments

METHODS: dict[Variances, Method] = {"unequal": "welch", "equal": "pooled"}


def compare(
    baseline: Sample,
    arms: Sequence[Sample],
    *,
    confidence: float = 0.95,
    variances: Variances = "unequal",
    higher_is_better: bool = True,
) -> tuple[Comparison, ...]:
    """Compare every arm that has a value with the baseline, in the given order; return () if the baseline has no value.

    The family is the comparisons that have an interval: at least two runs on both sides, and some spread. An arm with diverged
    or failed runs is compared by its completed runs, and its `note` says so.
    """
    if not baseline.values:
        return ()
    arms = [arm for arm in arms if arm.values]
    groups = {arm.arm: moments(arm.values) for arm in [baseline, *arms]}
    reference = groups[baseline.arm]
    pool = [group for group in groups.values() if group.n > 1]
    contrasts = {
        arm.arm: contrast([-1.0, 1.0], [reference, groups[arm.arm]], pool=pool, variances=variances)
        for arm in arms
        if min(reference.n, len(arm.values)) > 1
    }
    family = {name: difference for name, difference in contrasts.items() if difference.has_error}
    loadings = [_loading(reference, groups[name]) for name in family] if variances == "equal" else []
    p_holm_of = holm({name: unadjusted_p(difference) for name, difference in family.items()}) if variances == "unequal" else {}
    comparisons = []
    for arm in arms:
        difference = family.get(arm.arm)
        if difference is None:
            numbers = {}
        else:
            numbers = _dunnett(difference, loadings, confidence) if loadings else sidak(difference, len(family), confidence)
        comparisons.append(
            Comparison(
                difference=groups[arm.arm].mean - reference.mean,
                method=METHODS[variances] if arm.arm in family else "none",
                note=_note(baseline, arm, arm.arm in family),
                arm=arm.arm,
                baseline=baseline.arm,
                n=len(arm.values),
                n_baseline=len(baseline.values),
                p_holm=p_holm_of.get(arm.arm),
                probability_better=probability_better(arm.values, baseline.values, higher_is_better=higher_is_better),
                **numbers,
            )
        )
    return tuple(comparisons)


def _loading(reference: SampleMoments, group: SampleMoments) -> float:
    return sqrt(group.n / (group.n + reference.n))


def _dunnett(difference: Contrast, loadings: Sequence[float], confidence: float) -> dict[str, Any]:
    critical = largest_t_quantile(confidence, loadings, difference.df)
    return effect_numbers(
        difference, critical, largest_t_tail(difference.estimate / difference.standard_error, loadings, difference.df)
    )


def _note(baseline: Sample, arm: Sample, has_interval: bool) -> str:
    notes = []
    for sample in (arm, baseline):
        if sample.diverged or sample.failed:
            notes.append(f"{sample.arm}: mean of completed runs ({len(sample.values)}); {_lost(sample)}")
    if min(len(arm.values), len(baseline.values)) < 2:
        notes.append("no interval: one run per arm gives no estimate of the spread between seeds")
    elif not has_interval:
        notes.append("no interval: all runs of both arms gave the same value, so the spread between seeds is unknown")
    return "; ".join(notes)


def _lost(sample: Sample) -> str:
    counts = [(sample.diverged, "diverged"), (sample.failed, "failed")]
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def probability_better(
    arm: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool = True, confidence: float = 0.95
) -> Probability:
    """Estimate P(a new run of the arm is better than a new run of the baseline); ties count half. No distribution is assumed.

    The estimate is the share of pairs that the arm wins, U / (m n) of Mann & Whitney. The interval is the score-type one of
    Newcombe (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in
    Medicine 25, method 5), which does not degenerate to a point where one arm wins every pair. ValueError without values.
    """
    treatment, control = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if not (treatment.size and control.size):
        raise ValueError("the probability of being better needs at least one run on both sides")
    sign = np.sign(treatment[:, None] - control[None, :]) * (1 if higher_is_better else -1)
    share = float((sign + 1).mean() / 2)
    z2 = float(stats.norm.isf((1 - confidence) / 2)) ** 2
    pairs, n_star = treatment.size * control.size, (treatment.size + control.size) / 2 - 1

    def outside(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + n_star * (1 - theta) / (2 - theta) + n_star * theta / (1 + theta)) / pairs
        return (share - theta) ** 2 - z2 * variance

    low = 0.0 if share == 0 else float(optimize.brentq(outside, 0.0, share * (1 - 1e-12)))  # type: ignore[arg-type]
    high = 1.0 if share == 1 else float(optimize.brentq(outside, share + (1 - share) * 1e-12, 1.0))  # type: ignore[arg-type]
    return Probability(share, low, high)


def pairwise(samples: Sequence[Sample], *, confidence: float = 0.95, variances: Variances = "unequal") -> tuple[Pairwise, ...]:
    """Compare all pairs of arms, first minus second, by the studentised range.

    The method is Games & Howell (1976), or Tukey & Kramer where `variances` are equal. Arms with one run and pairs without spread
    get only their difference.
    """
    kept = [sample for sample in samples if sample.values]
    groups = [moments(sample.values) for sample in kept]
    pool = [group for group in groups if group.n > 1]
    count = len(pool)
    comparisons = []
    for left, right in combinations(range(len(kept)), 2):
        first, second = groups[left], groups[right]
        difference = contrast([1.0, -1.0], [first, second], pool=pool, variances=variances)
        has_interval = difference.has_error and min(first.n, second.n) > 1
        comparisons.append(
            Pairwise(
                difference=difference.estimate,
                method=METHODS[variances] if has_interval else "none",
                note="" if has_interval else "no interval: the spread between seeds is unknown",
                first=kept[left].arm,
                second=kept[right].arm,
                **(_studentised(difference, count, confidence) if has_interval else {}),
            )
        )
    return tuple(comparisons)


def _studentised(difference: Contrast, count: int, confidence: float) -> dict[str, Any]:
    critical = range_quantile(confidence, count, difference.df) / sqrt(2)
    adjusted = range_tail(abs(difference.estimate) / difference.standard_error * sqrt(2), count, difference.df)
    return effect_numbers(difference, critical, adjusted)
