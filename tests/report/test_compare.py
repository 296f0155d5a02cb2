"""Comparisons with a baseline, rates and power, against published numbers and SciPy's procedures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from train.report.contracts import Comparison, Sample
from train.report.statistics.compare import compare, probability_better
from train.report.statistics.contrasts import detectable, runs_needed
from train.report.statistics.pairing import pairing
from train.report.statistics.rates import divergence, rate

# Blood counts of three groups of animals: Dunnett (1955, JASA 50, table 1), the example of `scipy.stats.dunnett`.
CONTROL = Sample("control", (7.40, 8.50, 7.20, 8.24, 9.84, 8.32))
DRUG_A = Sample("drug A", (9.76, 8.80, 7.68, 9.36))
DRUG_B = Sample("drug B", (12.80, 9.68, 12.16, 9.20, 10.55))


def ends(comparison: Comparison) -> tuple[float, float]:
    assert comparison.low is not None
    assert comparison.high is not None
    return comparison.low, comparison.high


def test_compare_with_one_arm_is_welchs_t_test() -> None:
    (comparison,) = compare(CONTROL, [DRUG_B])
    reference: Any = stats.ttest_ind(DRUG_B.values, CONTROL.values, equal_var=False)
    interval = reference.confidence_interval(0.95)
    assert comparison.p_adjusted == pytest.approx(reference.pvalue)
    assert ends(comparison) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_compare_adjusted_p_and_interval_agree() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        baseline, *arms = (Sample(name, tuple(generator.normal(0, 1, 4))) for name in "abcd")
        for comparison, arm in zip(compare(baseline, arms), arms, strict=True):
            assert comparison.p_adjusted is not None
            p = float(stats.ttest_ind(arm.values, baseline.values, equal_var=False).pvalue)  # type: ignore[attr-defined]
            assert comparison.p_adjusted == pytest.approx(1 - (1 - p) ** len(arms))
            assert comparison.excludes_zero == (comparison.p_adjusted < 0.05)
            comparisons_at_edge = compare(baseline, arms, confidence=1 - comparison.p_adjusted)
            at_edge = next(candidate for candidate in comparisons_at_edge if candidate.arm == comparison.arm)
            assert min(abs(end) for end in ends(at_edge)) < 1e-6


def test_compare_is_bit_exact() -> None:
    assert compare(CONTROL, [DRUG_A, DRUG_B]) == compare(CONTROL, [DRUG_A, DRUG_B])


def test_compare_with_one_run_per_arm_has_no_interval() -> None:
    (comparison,) = compare(Sample("base", (0.5,)), [Sample("arm", (0.75,))])
    assert comparison.difference == pytest.approx(0.25)
    assert (comparison.low, comparison.high, comparison.p_adjusted, comparison.detectable) == (None, None, None, None)
    assert "one run per arm gives no estimate" in comparison.note


def test_compare_excludes_arms_of_one_run_from_the_family() -> None:
    """The family is the comparisons that have an interval."""
    alone = compare(CONTROL, [DRUG_A, DRUG_B])
    with_single = compare(CONTROL, [DRUG_A, Sample("single", (8.0,)), DRUG_B])
    assert [comparison.low for comparison in with_single] == [alone[0].low, None, alone[1].low]


def test_compare_of_constant_runs_has_no_interval() -> None:
    (constant,) = compare(Sample("base", (0.1, 0.1, 0.1)), [Sample("arm", (0.1, 0.1, 0.1))])
    assert constant.difference == 0
    assert constant.low is None
    assert "same value" in constant.note
    (half_constant,) = compare(Sample("base", (0.1, 0.1, 0.1)), [Sample("arm", (0.5, 0.6, 0.7))])
    half = stats.t.isf(0.025, 2) * 0.1 / math.sqrt(3)  # the arm alone gives the spread and its two degrees of freedom
    assert ends(half_constant) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_compare_skips_arms_without_values() -> None:
    none, some = Sample("none", (), diverged=5), Sample("some", (9.0, 9.5, 9.1), diverged=2)
    (comparison,) = compare(CONTROL, [none, some])
    assert comparison.arm == "some"
    assert comparison.difference == pytest.approx(9.2 - np.mean(CONTROL.values))
    assert compare(none, [some]) == ()


def test_compare_rejects_non_finite_values() -> None:
    with pytest.raises(ValueError, match="finite"):
        compare(CONTROL, [Sample("arm", (1.0, math.nan))])


@pytest.mark.parametrize("higher", [True, False])
def test_probability_better_equals_mann_whitney_and_newcombe(higher: bool) -> None:
    probability = probability_better((3, 4, 5), (1, 2, 3), higher_is_better=higher)
    share = stats.mannwhitneyu((3, 4, 5), (1, 2, 3)).statistic / 9
    assert probability.value == pytest.approx(share if higher else 1 - share)
    assert 0 < probability.low < probability.value < probability.high < 1
    for end in (probability.low, probability.high):  # Newcombe's variance, solved for z: 3 against 3 runs, so (3 + 3) / 2 - 1 = 2
        variance = end * (1 - end) * (1 + 2 * (1 - end) / (2 - end) + 2 * end / (1 + end)) / 9
        assert abs(probability.value - end) / math.sqrt(variance) == pytest.approx(1.96, abs=1e-3)
    certain = probability_better((3, 4, 5, 6, 7), (1, 2, 1, 2, 1))
    assert (certain.value, certain.high) == (1, 1)
    assert 0.5 < certain.low < 0.8


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_rate_equals_wilsons_published_intervals(count: int, total: int, low: float, high: float) -> None:
    """Newcombe (1998, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, table I)."""
    interval = rate(count, total)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_divergence_counts_only_results() -> None:
    divergence_rate = divergence([Sample("a", (0.5, 0.6), diverged=3, failed=4, missing=2)])
    assert (divergence_rate.count, divergence_rate.total) == (3, 5)
    assert (rate(0, 0).low, rate(0, 0).high) == (0, 1)


@pytest.mark.parametrize(("effect", "published"), [(0.2, 393), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_runs_needed_equals_cohens_table(effect: float, published: int) -> None:
    """Cohen (1988, "Statistical Power Analysis for the Behavioral Sciences", table 2.4.1): two-sided 5 %, power .80. By exact
    calculation, his 393 are 394."""
    assert runs_needed(effect, 1.0, 1) == pytest.approx(published, abs=1)


def test_detectable_has_the_simulated_power() -> None:
    generator = np.random.default_rng(8)
    effect = detectable(1.0, 5, 1)
    arms = generator.normal(effect, 1, (4000, 5))
    reference: Any = stats.ttest_ind(arms, generator.normal(0, 1, (4000, 5)), axis=1, equal_var=False)
    assert np.mean(reference.pvalue < 0.05) == pytest.approx(
        0.8, abs=0.03
    )  # Welch's test has a little less power than the equal-spread formula


def test_more_runs_detect_less_and_more_arms_need_more() -> None:
    table = [detectable(0.002, n, 5) for n in (2, 3, 5, 8, 10, 20)]
    assert table == sorted(table, reverse=True)
    assert detectable(0.002, 5, 1) < detectable(0.002, 5, 5)
    assert runs_needed(1e-6, 1.0, 5) is None
    needed = runs_needed(0.004, 0.002, 5)
    assert needed is not None
    assert detectable(0.002, needed, 5) <= 0.004 < detectable(0.002, needed - 1, 5)


def test_pairing_finds_a_planted_correlation() -> None:
    generator = np.random.default_rng(5)
    shared = generator.normal(0, 1, 8)
    seeds = tuple(range(8))

    def arms(weight: float) -> list[Sample]:
        own = math.sqrt(1 - weight**2)
        return [Sample(str(k), tuple(weight * shared + own * generator.normal(0, 1, 8)), seeds) for k in range(5)]

    planted = pairing(arms(0.95))
    assert planted is not None
    assert planted.correlation > 0.7
    assert planted.p < 0.01
    assert planted.width < 0.7
    null_p = [result.p for _ in range(60) if (result := pairing(arms(0.0))) is not None]
    assert sum(p < 0.05 for p in null_p) <= stats.binom.ppf(0.999, 60, 0.05)
    samples = arms(0.5)
    expected = np.asarray(np.corrcoef([sample.values for sample in samples]))[np.triu_indices(5, 1)].mean()
    measured = pairing(samples)
    assert measured is not None
    assert measured.correlation == pytest.approx(expected)
    assert pairing([Sample("a", (1.0, 2.0), (0, 1)), Sample("b", (2.0, 1.0), (0, 1))]) is None
    assert pairing([Sample("a", (1.0, 2.0, 3.0), (0, 1, 2)), Sample("b", (2.0, 1.0, 5.0), (3, 4, 5))]) is None
