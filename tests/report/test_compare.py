"""Comparisons with a baseline, all pairs, rates and power, against published numbers and SciPy's own procedures."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from train.report.contracts import Comparison, Sample
from train.report.statistics.compare import compare, pairwise, probability_better
from train.report.statistics.intervals import holm
from train.report.statistics.max_t import largest_t_quantile
from train.report.statistics.pairing import pairing
from train.report.statistics.power import detectable, plan, runs_needed
from train.report.statistics.rates import divergence, rate

# Blood counts of three groups of animals: Dunnett (1955, JASA 50, table 1), the example of `scipy.stats.dunnett`.
CONTROL = Sample("control", (7.40, 8.50, 7.20, 8.24, 9.84, 8.32))
DRUG_A = Sample("drug A", (9.76, 8.80, 7.68, 9.36))
DRUG_B = Sample("drug B", (12.80, 9.68, 12.16, 9.20, 10.55))

# Minutes to relief under three brands of medicine: the example of `scipy.stats.tukey_hsd`, from the NIST handbook.
BRANDS = (
    Sample("0", (24.5, 23.5, 26.4, 27.1, 29.9)),
    Sample("1", (28.4, 34.2, 29.5, 32.2, 30.1)),
    Sample("2", (26.1, 28.3, 24.3, 26.2, 27.8)),
)


def ends(comparison: Comparison) -> tuple[float, float]:
    assert comparison.low is not None
    assert comparison.high is not None
    return comparison.low, comparison.high


@pytest.mark.parametrize(
    ("df", "published"),
    [
        (5, (2.57, 3.03, 3.29, 3.48, 3.62)),
        (10, (2.23, 2.57, 2.76, 2.89, 2.99)),
        (20, (2.09, 2.38, 2.54, 2.65, 2.73)),
        (60, (2.00, 2.27, 2.41, 2.51, 2.58)),
    ],
)
def test_critical_values_are_those_of_dunnetts_table(df: int, published: tuple[float, ...]) -> None:
    """Two-sided, 5 %, 1 to 5 treatments of as many runs as the control: Dunnett (1964, Biometrics 20, table II)."""
    found = [round(largest_t_quantile(0.95, [math.sqrt(0.5)] * arms, df), 2) for arms in range(1, 6)]
    assert found == list(published)


def test_dunnetts_blood_counts() -> None:
    first, second = compare(CONTROL, [DRUG_A, DRUG_B], variances="equal")
    assert (first.p_adjusted, second.p_adjusted) == (pytest.approx(0.62, abs=1e-3), pytest.approx(0.0058, abs=1e-4))
    seeded: Any = {"random_state": np.random.default_rng(0)}
    theirs = stats.dunnett(DRUG_A.values, DRUG_B.values, control=CONTROL.values, **seeded)
    within = theirs.confidence_interval()
    for place, made in enumerate((first, second)):
        assert made.p_adjusted == pytest.approx(theirs.pvalue[place], abs=1e-3)
        assert ends(made) == (pytest.approx(within.low[place], abs=0.02), pytest.approx(within.high[place], abs=0.02))
        assert made.method == "pooled"


def test_one_arm_is_welchs_t_test() -> None:
    (made,) = compare(CONTROL, [DRUG_B])
    theirs: Any = stats.ttest_ind(DRUG_B.values, CONTROL.values, equal_var=False)
    within = theirs.confidence_interval(0.95)
    assert made.p == pytest.approx(theirs.pvalue)
    assert made.p_adjusted == pytest.approx(theirs.pvalue)
    assert made.df == pytest.approx(theirs.df)
    assert ends(made) == (pytest.approx(within.low), pytest.approx(within.high))


@pytest.mark.parametrize("variances", ["equal", "unequal"])
def test_adjusted_p_and_interval_say_the_same(variances: str) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        baseline, *arms = (Sample(name, tuple(generator.normal(0, 1, 4))) for name in "abcd")
        for made in compare(baseline, arms, variances=variances):  # type: ignore[arg-type]
            assert made.p is not None
            assert made.p_adjusted is not None
            assert made.excludes_zero == (made.p_adjusted < 0.05)
            assert made.p <= made.p_adjusted + 1e-12
            at_the_edge = compare(baseline, arms, confidence=1 - made.p_adjusted, variances=variances)  # type: ignore[arg-type]
            again = next(one for one in at_the_edge if one.arm == made.arm)
            assert min(abs(end) for end in ends(again)) < 1e-6


def test_holms_adjustment() -> None:
    """The example of the encyclopaedia's article on it: p of .01, .04, .03 and .005."""
    assert holm({"1": 0.01, "2": 0.04, "3": 0.03, "4": 0.005}) == pytest.approx({"4": 0.02, "1": 0.03, "3": 0.06, "2": 0.06})
    made = compare(CONTROL, [DRUG_A, DRUG_B])
    assert {one.arm: one.p_holm for one in made} == pytest.approx(holm({one.arm: one.p or 0.0 for one in made}))


def test_results_repeat_to_the_bit() -> None:
    assert compare(CONTROL, [DRUG_A, DRUG_B], variances="equal") == compare(CONTROL, [DRUG_A, DRUG_B], variances="equal")


def test_one_run_per_arm_has_a_difference_and_no_interval() -> None:
    (made,) = compare(Sample("base", (0.5,)), [Sample("arm", (0.75,))])
    assert made.difference == pytest.approx(0.25)
    assert (made.low, made.p, made.p_adjusted, made.method) == (None, None, None, "none")
    assert "one run per arm" in made.note


def test_an_arm_of_one_run_leaves_the_others_their_family() -> None:
    """The family is the comparisons that have an interval."""
    alone = compare(CONTROL, [DRUG_A, DRUG_B])
    beside = compare(CONTROL, [DRUG_A, Sample("single", (8.0,)), DRUG_B])
    assert [one.low for one in beside] == [alone[0].low, None, alone[1].low]


def test_runs_that_all_agree_give_no_interval_and_no_warning() -> None:
    (made,) = compare(Sample("base", (0.1, 0.1, 0.1)), [Sample("arm", (0.1, 0.1, 0.1))])
    assert made.difference == 0
    assert made.low is None
    assert "same value" in made.note
    (half,) = compare(Sample("base", (0.1, 0.1, 0.1)), [Sample("arm", (0.5, 0.6, 0.7))])
    assert half.df == pytest.approx(2)
    assert ends(half)[0] < 0.5 < ends(half)[1]


def test_an_arm_without_a_value_has_no_comparison_and_diverged_runs_are_named() -> None:
    none, some = Sample("none", (), diverged=5), Sample("some", (9.0, 9.5, 9.1), diverged=2)
    (made,) = compare(CONTROL, [none, some])
    assert made.arm == "some"
    assert made.difference == pytest.approx(9.2 - np.mean(CONTROL.values))
    assert "2 diverged" in made.note
    assert compare(none, [some]) == ()


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        compare(CONTROL, [Sample("arm", (1.0, math.nan))])


@pytest.mark.parametrize("higher", [True, False])
def test_probability_better(higher: bool) -> None:
    made = probability_better((3, 4, 5), (1, 2, 3), higher_is_better=higher)
    share = stats.mannwhitneyu((3, 4, 5), (1, 2, 3)).statistic / 9
    assert made.value == pytest.approx(share if higher else 1 - share)
    assert 0 < made.low < made.value < made.high < 1
    for end in (made.low, made.high):  # Newcombe's variance, solved for z: 3 against 3 runs, so (3 + 3) / 2 - 1 = 2
        variance = end * (1 - end) * (1 + 2 * (1 - end) / (2 - end) + 2 * end / (1 + end)) / 9
        assert abs(made.value - end) / math.sqrt(variance) == pytest.approx(1.96, abs=1e-3)
    always = probability_better((3, 4, 5, 6, 7), (1, 2, 1, 2, 1))
    assert (always.value, always.high) == (1, 1)
    assert 0.5 < always.low < 0.8


def test_tukeys_published_pairs() -> None:
    """p values and limits as printed in SciPy's documentation of `tukey_hsd`."""
    found = {(one.first, one.second): one for one in pairwise(BRANDS, variances="equal")}
    for pair, difference, p, low, high in (
        (("0", "1"), -4.600, 0.014, -8.249, -0.951),
        (("0", "2"), -0.260, 0.980, -3.909, 3.389),
        (("1", "2"), 4.340, 0.020, 0.691, 7.989),
    ):
        made = found[pair]
        assert (made.difference, made.p_adjusted, made.low, made.high) == pytest.approx((difference, p, low, high), abs=6e-4)


def test_games_and_howell_is_the_studentised_range_with_welchs_error() -> None:
    made = pairwise(BRANDS)[0]
    assert made.df is not None
    assert made.standard_error is not None
    statistic = abs(made.difference) / made.standard_error * math.sqrt(2)
    assert made.p_adjusted == pytest.approx(stats.studentized_range.sf(statistic, 3, made.df), abs=1e-6)
    if "equal_var" in inspect.signature(stats.tukey_hsd).parameters:  # later versions of SciPy have it
        theirs = stats.tukey_hsd(*(one.values for one in BRANDS), equal_var=False)
        assert made.p_adjusted == pytest.approx(theirs.pvalue[0, 1], abs=1e-6)
        assert made.low == pytest.approx(theirs.confidence_interval().low[0, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_published_intervals(count: int, total: int, low: float, high: float) -> None:
    """Newcombe (1998, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, table I)."""
    made = rate(count, total)
    assert (made.low, made.high) == pytest.approx((low, high), abs=5e-5)


def test_divergence_counts_results_only() -> None:
    made = divergence([Sample("a", (0.5, 0.6), diverged=3, failed=4, missing=2)])
    assert (made.count, made.total) == (3, 5)
    assert (rate(0, 0).low, rate(0, 0).high) == (0, 1)


@pytest.mark.parametrize(("effect", "published"), [(0.2, 393), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_runs_needed_are_cohens(effect: float, published: int) -> None:
    """Cohen (1988, "Statistical Power Analysis for the Behavioral Sciences", table 2.4.1): two-sided 5 %, power .80. By exact
    calculation, his 393 are 394."""
    assert runs_needed(effect, 1.0, 1) == pytest.approx(published, abs=1)


def test_power_is_what_simulation_finds() -> None:
    generator = np.random.default_rng(8)
    effect = detectable(1.0, 5, 1)
    arms = generator.normal(effect, 1, (4000, 5))
    theirs: Any = stats.ttest_ind(arms, generator.normal(0, 1, (4000, 5)), axis=1, equal_var=False)
    assert np.mean(theirs.pvalue < 0.05) == pytest.approx(
        0.8, abs=0.03
    )  # Welch's test has a little less power than the equal-spread formula


def test_a_plan_sees_less_with_more_arms_and_more_with_more_runs() -> None:
    table = plan(0.002, arms=5)
    assert [row.detectable for row in table] == sorted((row.detectable for row in table), reverse=True)
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

    found = pairing(arms(0.95))
    assert found is not None
    assert found.correlation > 0.7
    assert found.p < 0.01
    assert found.width < 0.7
    by_chance = [made.p for _ in range(60) if (made := pairing(arms(0.0))) is not None]
    assert sum(p < 0.05 for p in by_chance) <= stats.binom.ppf(0.999, 60, 0.05)
    some = arms(0.5)
    expected = np.asarray(np.corrcoef([sample.values for sample in some]))[np.triu_indices(5, 1)].mean()
    mean = pairing(some)
    assert mean is not None
    assert mean.correlation == pytest.approx(expected)
    assert pairing([Sample("a", (1.0, 2.0), (0, 1)), Sample("b", (2.0, 1.0), (0, 1))]) is None
    assert pairing([Sample("a", (1.0, 2.0, 3.0), (0, 1, 2)), Sample("b", (2.0, 1.0, 5.0), (3, 4, 5))]) is None
