"""Levels of planned looks against published boundaries, and decisions against an obvious reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

from train.report.contracts import Sample
from train.report.statistics.sequential import Decision, decide, look_level, look_levels

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("alpha", "fractions", "boundaries"),
    [
        (0.05, FIVE, (4.877, 3.357, 2.680, 2.290, 2.031)),
        (0.05, (1 / 3, 2 / 3, 1.0), (3.710, 2.511, 1.993)),
        (0.05, (0.5, 1.0), (2.963, 1.969)),
        (0.05, (1.0,), (1.960,)),
    ],
)
def test_levels_are_the_published_ones(alpha: float, fractions: Sequence[float], boundaries: Sequence[float]):
    """Two-sided, equal looks: the tables that `ldBounds` of R's ldbounds, gsDesign and Jennison & Turnbull (2000) agree on."""
    found = [float(stats.norm.isf(level / 2)) for level in look_levels(alpha, fractions)]
    assert found == pytest.approx(boundaries, abs=6e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.004])
@pytest.mark.parametrize("fractions", [FIVE, (0.1, 0.45, 1.0), (0.5, 0.51, 0.9), (5 / 12, 10 / 12, 1.0)])
def test_levels_spend_alpha_as_planned(alpha: float, fractions: Sequence[float]):
    """The probability that a Brownian motion crosses any boundary up to a look, by the multivariate normal distribution."""
    levels = look_levels(alpha, fractions)
    for count in range(1, len(fractions) + 1):
        t = np.array(fractions[:count])
        correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
        z = stats.norm.isf(np.array(levels[:count]) / 2)
        distribution: Any = stats.multivariate_normal
        normal = distribution(cov=correlation, allow_singular=True, seed=1)
        assert 1 - normal.cdf(z, lower_limit=-z) == pytest.approx(
            4 * stats.norm.sf(stats.norm.isf(alpha / 4) / math.sqrt(t[-1])), abs=3e-5
        )


def test_levels_of_many_looks_are_positive_and_rise():
    levels = look_levels(0.05, [n / 60 for n in range(3, 61)])
    assert all(0 < before < after < 0.05 for before, after in pairwise(levels))


@pytest.mark.parametrize("fractions", [(), (0.5, 0.5), (0.6, 0.5), (0.0, 1.0), (0.5, 1.2)])
def test_fractions_that_do_not_rise_to_one_are_refused(fractions: Sequence[float]):
    with pytest.raises(ValueError, match="fractions"):
        look_levels(0.05, fractions)


def test_contrasts_share_alpha_by_sidak_and_keep_a_little_for_small_samples():
    assert look_level((25,), 1, 4) == pytest.approx(1 - 0.95**0.25)
    assert look_level((5, 10), 1, 3) == pytest.approx(look_levels((1 - 2**0.5 / 20) * (1 - 0.95 ** (1 / 3)), (0.5, 1.0))[0])
    with pytest.raises(ValueError, match="look 3"):
        look_level((5, 10), 3, 1)


def slow_decisions(
    baseline: Sample, arms: Sequence[Sample], looks: Sequence[int], look: int, margin: float | None, contrasts: int
) -> list[Decision]:
    """Return the decisions by SciPy's t test, one condition after the other. Runs are complete, and have some spread."""
    found = []
    for arm in arms:
        share = (1 - 0.95 ** (1 / contrasts)) * (1 - len(looks) ** 0.5 / 2 / looks[-1])
        level = look_levels(share, [seeds / looks[-1] for seeds in looks])[look - 1]
        test: Any = stats.ttest_ind(arm.values, baseline.values, equal_var=False)
        interval = test.confidence_interval(1 - level)
        verdict: Any = "open"
        if test.pvalue < level:
            verdict = "different"
        if margin is not None and interval.low >= -margin and interval.high <= margin:
            verdict = "equivalent"
        difference = float(np.mean(arm.values) - np.mean(baseline.values))
        found.append(Decision(arm.arm, verdict, interval.low, interval.high, level, difference))
    return found


def test_decisions_are_those_of_the_obvious_reference():
    generator = np.random.default_rng(5)
    verdicts = []
    for _ in range(40):
        looks = (5, 10, 15, 20, 25)
        look = int(generator.integers(1, 6))
        baseline, *arms = (
            Sample(name, tuple(generator.normal(mean, sd, looks[look - 1])))
            for name, mean, sd in zip("0abcd", (0, 0, 1, 3, 8), generator.choice([0.3, 1, 3], 5), strict=True)
        )
        margin = [None, 0.5, 1.5][int(generator.integers(3))]
        found = decide(baseline, arms, looks, look, margin, contrasts=6)
        expected = slow_decisions(baseline, arms, looks, look, margin, contrasts=6)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.arm, ours.verdict) == (theirs.arm, theirs.verdict)
            assert ours.level == pytest.approx(theirs.level)
            ends, reference = (ours.low, ours.high, ours.difference), (theirs.low, theirs.high, theirs.difference)
            # SciPy takes the level as a confidence, of which 1 - 1e-9 keeps seven digits
            assert ends == pytest.approx(reference, rel=1e-4, abs=1e-3 if ours.level < 1e-5 else 1e-6)
        verdicts += [decision.verdict for decision in found]
    assert set(verdicts) == {"different", "equivalent", "open"}


GOOD = (0.70, 0.71, 0.72, 0.73, 0.74)


def decision(baseline: Sample, arm: Sample, margin: float | None = 0.5) -> Decision:
    return decide(baseline, [arm], (5,), 1, margin, contrasts=1)[0]


def test_interval_within_the_margin_is_equivalent_even_if_it_excludes_zero():
    """As on a page, which names the smaller claim."""
    base, better = Sample("base", GOOD), Sample("arm", tuple(value + 0.1 for value in GOOD))
    assert decision(base, better).verdict == "equivalent"
    assert decision(base, better, 0.11).verdict == "different"
    assert decision(base, better, None).verdict == "different"
    assert decision(base, Sample("arm", GOOD), None).verdict == "open"


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        ({"failed": 1}, "open"),
        ({"missing": 2}, "open"),
        ({"diverged": 1}, "not_comparable"),
        ({"untrained": 1}, "equivalent"),
        ({"untrained": 20}, "not_comparable"),
        ({"diverged": 1, "failed": 1}, "open"),
    ],
)
def test_lost_runs_never_decide_by_their_means(side: int, lost: dict[str, Any], verdict: str):
    """A failed or missing run may still come. A run that diverged makes the others a selection, and so do many that learned
    nothing; few do not matter where the verdict is the same whichever of the others are left out."""
    sides = [Sample("base", GOOD), Sample("arm", tuple(value + 0.4 for value in GOOD))]
    assert decision(sides[0], sides[1]).verdict == "equivalent"
    sides[side] = Sample(sides[side].arm, sides[side].values[1:], **lost)
    assert decision(sides[0], sides[1]).verdict == verdict


def test_arm_is_open_while_its_verdict_depends_on_runs_that_learned_nothing():
    base, spread = Sample("base", (0.0, 0.1, 0.2, 0.3, 0.4)), (0.5, 0.52, 0.54, 0.56)
    assert decision(base, Sample("arm", (*spread, 0.58)), None).verdict == "different"
    assert decision(base, Sample("arm", spread, untrained=2), None).verdict == "open"


def test_arm_without_values_is_not_comparable_and_has_no_interval():
    found = decision(Sample("base", GOOD), Sample("arm", (), diverged=5))
    assert (found.verdict, found.low, found.high) == ("not_comparable", -math.inf, math.inf)
    assert math.isnan(found.difference)
    assert decision(Sample("base", ()), Sample("arm", ())).verdict == "open"
    assert decision(Sample("base", (), untrained=5), Sample("arm", (), untrained=5)).verdict == "not_comparable"


def test_equal_losses_on_both_sides_leave_the_means_comparable():
    arm, base = Sample("arm", (0.9, 0.91, 0.92, 0.93), untrained=1), Sample("base", (0.1, 0.11, 0.12, 0.13), untrained=1)
    assert decision(base, arm).verdict == "different"


def test_one_run_or_equal_values_decide_nothing():
    assert decision(Sample("base", (0.1,)), Sample("arm", (0.9,))).verdict == "open"
    assert decision(Sample("base", (0.1,) * 5), Sample("arm", (0.9,) * 5)).verdict == "open"
    assert decision(Sample("base", (0.1,) * 5), Sample("arm", (0.1,) * 5)).verdict == "open"
