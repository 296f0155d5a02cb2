"""Reasons to trust the conclusions less that show in the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

from train.report.contracts import Conditions, Facts, MetricInfo, Sample, Severity, Threat
from train.report.sentence_text import MINUS, listed, numbers, percent, plain, points, runs
from train.report.statistics.moments import moments, pooled_variance
from train.report.statistics.pairing import pairing

ALPHA = 0.05
CEILING = 0.99
FEW_RUNS = 3
SPREAD_RATIO = 3.0
RANK: dict[Severity, int] = {"serious": 0, "caution": 1, "note": 2}


@dataclass(frozen=True)
class _Seen:
    samples: Sequence[Sample]
    facts: Facts
    metric: MetricInfo
    comparisons: int

    @property
    def spread_out(self) -> list[Sample]:
        """Arms of at least three runs that are not all the same."""
        return [sample for sample in self.samples if len(sample.values) >= 3 and len(set(sample.values)) > 1]

    @property
    def seed_sd(self) -> float:
        return sqrt(pooled_variance([moments(sample.values) for sample in self.samples if sample.values])[0])


def find_threats(samples: Sequence[Sample], facts: Facts, metric: MetricInfo, *, comparisons: int) -> tuple[Threat, ...]:
    """Of all arms, the baseline among them; the worst first. `comparisons`: how many differences have intervals in the report."""
    seen = _Seen(samples, facts, metric, comparisons)
    found = [Threat(kind, sentence, severity) for look in _LOOKS for kind, sentence, severity in look(seen)]
    return tuple(sorted(found, key=lambda threat: RANK[threat.severity]))


_Found = Iterator[tuple[str, str, Severity]]


def _lost_runs(seen: _Seen) -> _Found:
    outcomes: tuple[tuple[str, Severity, str], ...] = (
        ("diverged", "serious", "means are of the runs that did not, which are a selection"),
        ("failed", "serious", "if what failed them has to do with the arm, the others are a selection"),
        ("missing", "caution", "the numbers will change when they end"),
    )
    for name, severity, meaning in outcomes:
        counts = [(getattr(sample, name), sample.arm) for sample in seen.samples if getattr(sample, name)]
        if counts:
            verb = "are missing" if name == "missing" else name
            where = listed([f"{count} of {arm}" for count, arm in counts])
            yield f"{name}_runs", f"{runs(sum(c for c, _ in counts))} {verb} ({where}): {meaning}.", severity


def _few_runs(seen: _Seen) -> _Found:
    few = [f"{sample.arm} ({len(sample.values)})" for sample in seen.samples if 0 < len(sample.values) < FEW_RUNS]
    if few:
        yield "few_runs", f"Fewer than {FEW_RUNS} runs with a value: {listed(few)}. Their spread is hardly known.", "serious"


def _constant(seen: _Seen) -> _Found:
    same = [sample.arm for sample in seen.samples if len(sample.values) > 1 and len(set(sample.values)) == 1]
    if same:
        said = f"All runs of {listed(same)} gave exactly the same {seen.metric.name}"
        yield "constant_arm", f"{said}: either nothing was learned, or the seeds change nothing.", "caution"


def _conditions(seen: _Seen) -> _Found:
    fields: tuple[tuple[str, str, Severity], ...] = (
        ("versions", "versions of the code", "serious"),
        ("devices", "devices", "caution"),
        ("precisions", "precisions", "caution"),
    )
    for name, what, severity in fields:
        values = [tuple(getattr(made, name)) for made in seen.facts.conditions]
        every = sorted({value for some in values for value in some})
        if len(every) > 1:
            apart = len({tuple(sorted(set(some))) for some in values if some}) > 1
            how = "not alike in all arms, so a difference between arms may come from it" if apart else "mixed alike in every arm"
            yield name, f"Runs differ in {what} ({', '.join(every)}), {how}.", severity if apart else "note"


def _budgets(seen: _Seen) -> _Found:
    every = _union(seen.facts.conditions, "budgets")
    if len(every) > 1:
        said = f"Runs were trained for different budgets ({numbers(every)})."
        yield "budgets", said, "note" if seen.facts.budget_factors else "serious"


def _learning_rate(seen: _Seen) -> _Found:
    rates = _union(seen.facts.conditions, "learning_rates")
    if seen.facts.rate_factors or seen.facts.tuned_over or not rates:
        return
    many = "the rate" if len(rates) == 1 else "rates"
    said = f"No arm had its learning rate tuned; {many} {numbers(rates)} may suit some arms better than others"
    remedy = "Rates tried as levels of optimizer.lr, with sweep.tune=optimizer.lr, are tuned for every arm"
    yield "learning_rate", f"{said}, and another rate may order them differently. {remedy}.", "caution"


def _union(conditions: Sequence[Conditions], name: str) -> list[float]:
    return sorted({value for made in conditions for value in getattr(made, name)})


def _shared_seeds(seen: _Seen) -> _Found:
    found = pairing(seen.samples)
    if found is None:
        return
    size = f"{found.correlation:+.2f}".replace("-", MINUS)
    said = (
        f"Runs of different arms with the same seed correlate by {size} (p {found.p:.2g}, {found.arms} arms, {found.seeds} seeds"
    )
    said += "); the intervals take all runs as independent"
    if found.p >= ALPHA:
        yield "shared_seeds", f"{said}, which these runs do not contradict.", "note"
    elif found.correlation > 0:
        said += f", so they are cautious: pairing by seed would multiply their widths by about {found.width:.2f}."
        yield "shared_seeds", said, "note"
    else:
        yield "shared_seeds", f"{said}, so they are too narrow.", "caution"


def _outliers(seen: _Seen) -> _Found:
    """Grubbs' test (1969, Technometrics 11) as a t test of the farthest run against the others of its arm, by Bonferroni over all
    runs: in one of twenty sweeps of normal values it names a run."""
    total = sum(len(sample.values) for sample in seen.spread_out)
    for sample in seen.spread_out:
        values = np.asarray(sample.values)
        place = int(np.argmax(np.abs(values - values.mean())))
        others = np.delete(values, place)
        n, spread = others.size, float(others.std(ddof=1))
        if spread <= 1e-12 or n < 3:
            continue
        distance = abs(values[place] - others.mean()) / (spread * sqrt(1 + 1 / n))
        if 2 * stats.t.sf(distance, n - 1) * total >= ALPHA:
            continue
        seed = f"seed {sample.seeds[place]}" if sample.seeds else f"run {place + 1}"
        unit, metric = points(seen.metric).replace("percentage points", "%"), seen.metric
        low, high, odd, mean = (plain(float(v), metric, 2) for v in (others.min(), others.max(), values[place], others.mean()))
        said = f"{sample.arm}, {seed}: {odd}{unit} lies far from the arm's other runs ({low} to {high}{unit})"
        yield "outlier_seed", f"{said}; without it the arm's mean is {mean}{unit}.", "caution"


def _non_normality(seen: _Seen) -> _Found:
    """Shapiro & Wilk's test (1965, Biometrika 52) in every arm, put together by Fisher's method."""
    if not seen.spread_out:
        return
    p = [float(np.asarray(stats.shapiro(sample.values))[1]) for sample in seen.spread_out]
    together = float(np.asarray(stats.combine_pvalues(p, method="fisher"))[1])
    fewest = min(len(sample.values) for sample in seen.spread_out)
    weak = f"With {fewest} runs in an arm, such a test sees only gross departures."
    if together < ALPHA:
        yield (
            "non_normality",
            f"The runs of an arm do not look normally distributed (p {together:.2g}); the intervals take them so.",
            "caution",
        )
    else:
        yield "non_normality", f"Nothing speaks against normally distributed runs (p {together:.2g}). {weak}", "note"


def _unequal_spread(seen: _Seen) -> _Found:
    spread = {sample.arm: moments(sample.values).variance for sample in seen.spread_out}
    if len(spread) < 2:
        return
    least, most = min(spread, key=lambda arm: spread[arm]), max(spread, key=lambda arm: spread[arm])
    ratio = sqrt(spread[most] / spread[least])
    if ratio >= SPREAD_RATIO:
        said = f"Seeds matter {ratio:.1f} times as much in {most} as in {least} (standard deviations)"
        yield "unequal_spread", f"{said}; intervals that pool the spread would mislead.", "note"


def _test_set(seen: _Seen) -> _Found:
    """The binomial standard error of one accuracy, beside the spread between seeds."""
    means = [float(np.mean(sample.values)) for sample in seen.samples if sample.values]
    if not (seen.metric.is_share and seen.facts.test_size and means):
        return
    middle = min(max(float(np.median(means)), 0.0), 1.0)
    floor, between = sqrt(middle * (1 - middle) / seen.facts.test_size), seen.seed_sd
    ours, seeds = (plain(value, seen.metric, 2) + points(seen.metric) for value in (floor, between))
    said = (
        f"The {seen.metric.name} is counted on {seen.facts.test_size:,} images: their choice alone moves it by {ours} "
        f"(one standard error), seeds by {seeds}. All arms share these images, so the intervals speak of them, not of new ones."
    )
    yield "test_set", said, "caution" if floor > between else "note"


def _ceiling(seen: _Seen) -> _Found:
    if not seen.metric.is_share:
        return
    high = [sample.arm for sample in seen.samples if sample.values and float(np.mean(sample.values)) >= CEILING]
    if high:
        yield "ceiling", f"{listed(high)}: above {percent(CEILING)}, where little is left to differ in.", "caution"


def _many_comparisons(seen: _Seen) -> _Found:
    if seen.comparisons > 1:
        chance = 1 - 0.95**seen.comparisons
        said = (
            f"{seen.comparisons} differences are judged: at 5 % each, chance would show one in up to {percent(chance)} of sweeps"
        )
        yield "comparisons", f"{said}. The intervals and adjusted p values allow for it, within this report only.", "note"


_LOOKS: tuple[Callable[[_Seen], _Found], ...] = (
    _lost_runs,
    _few_runs,
    _conditions,
    _budgets,
    _learning_rate,
    _outliers,
    _constant,
    _ceiling,
    _test_set,
    _non_normality,
    _unequal_spread,
    _shared_seeds,
    _many_comparisons,
)
