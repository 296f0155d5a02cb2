"""Comparisons of all pairs of arms, against published numbers, SciPy's integrals and one pair at a time."""

from __future__ import annotations

import inspect
import math
import time
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from train.report.contracts import Sample
from train.report.statistics.contrasts import contrast, moments
from train.report.statistics.pairs import AllPairs, pairwise
from train.report.statistics.studentized import NODES, by_df, noncentrality, range_quantile, range_tails

# Minutes to relief under three brands of medicine: the example of `scipy.stats.tukey_hsd`, from the NIST handbook.
BRANDS = (
    Sample("0", (24.5, 23.5, 26.4, 27.1, 29.9)),
    Sample("1", (28.4, 34.2, 29.5, 32.2, 30.1)),
    Sample("2", (26.1, 28.3, 24.3, 26.2, 27.8)),
)


@pytest.mark.parametrize(
    ("df", "published"),
    [
        (5, (3.64, 4.60, 5.22, 5.67, 6.03)),
        (10, (3.15, 3.88, 4.33, 4.65, 4.91)),
        (20, (2.95, 3.58, 3.96, 4.23, 4.45)),
        (60, (2.83, 3.40, 3.74, 3.98, 4.16)),
    ],
)
def test_range_quantile_equals_published_table(df: int, published: tuple[float, ...]) -> None:
    """5 %, 2 to 6 groups: Harter (1960, "Tables of range and studentized range", Annals of Mathematical Statistics 31)."""
    assert [round(range_quantile(0.95, groups, df), 2) for groups in range(2, 7)] == list(published)


def test_pairwise_equals_games_and_howell() -> None:
    comparison = pairwise(BRANDS)[0]
    first, second = (np.var(brand.values, ddof=1) / len(brand.values) for brand in BRANDS[:2])
    df = (first + second) ** 2 / (first**2 / 4 + second**2 / 4)
    statistic = abs(comparison.difference) / math.sqrt(first + second) * math.sqrt(2)
    assert comparison.p_adjusted == pytest.approx(stats.studentized_range.sf(statistic, 3, df), abs=1e-6)
    if "equal_var" in inspect.signature(stats.tukey_hsd).parameters:  # later versions of SciPy have it
        reference = stats.tukey_hsd(*(brand.values for brand in BRANDS), equal_var=False)
        assert comparison.p_adjusted == pytest.approx(reference.pvalue[0, 1], abs=1e-6)
        assert comparison.low == pytest.approx(reference.confidence_interval().low[0, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("groups", "df", "statistic"), [(2, 1.0, 18.0), (3, 4.0, 5.0), (20, 2.0, 16.0), (200, 8.0, 8.0), (20, 30.0, 5.3)]
)
def test_tail_of_the_range_equals_scipys_integral(groups: int, df: float, statistic: float) -> None:
    (tail,) = range_tails(np.array([statistic]), groups, np.array([df]))
    assert tail == pytest.approx(stats.studentized_range.sf(statistic, groups, df), abs=1e-9)


@pytest.mark.parametrize(("df", "critical"), [(1.0, 19.1), (4.0, 9.3), (20.0, 2.5), (1e4, 4.6)])
def test_noncentrality_has_the_power_of_scipys_distribution(df: float, critical: float) -> None:
    assert stats.nct.sf(critical, df, noncentrality(df, critical, 0.8)) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 4), (4, 8), (19, 38), (1, 60), (2, 1e4)])
@pytest.mark.parametrize("groups", [9, 200, 1000])
def test_interpolated_quantile_equals_the_root(groups: int, low: float, high: float) -> None:
    """The largest relative error at any of these is 8e-8."""
    df = np.geomspace(low, high, NODES + 1)
    interpolated = by_df(lambda value: range_quantile(0.95, groups, value), df)
    exact = [range_quantile(0.95, groups, float(value)) for value in df]
    assert interpolated == pytest.approx(exact, rel=1e-6)


def arms(count: int, runs: int = 5) -> list[Sample]:
    """Return arms whose means and spreads differ."""
    generator = np.random.default_rng(count)
    values = generator.normal(generator.uniform(0.6, 0.7, (count, 1)), generator.uniform(0.002, 0.02, (count, 1)), (count, runs))
    return [Sample(str(arm), tuple(row.tolist())) for arm, row in enumerate(values)]


def test_many_pairs_equal_each_pair_by_itself() -> None:
    """Twelve arms have more degrees of freedom than are computed: the fast way against roots of the same integrals."""
    samples = arms(12)
    pairs, groups = pairwise(samples), [moments(sample.values) for sample in samples]
    assert len({pair.df for pair in pairs}) > NODES
    for pair, (first, second) in zip(pairs, combinations(groups, 2), strict=True):
        difference = contrast([1.0, -1.0], [first, second])
        error, df = difference.standard_error, difference.df
        critical = range_quantile(0.95, len(samples), df) / math.sqrt(2)
        statistic = abs(difference.estimate) / error * math.sqrt(2)
        assert (pair.difference, pair.standard_error, pair.df) == pytest.approx((difference.estimate, error, df))
        assert (pair.low, pair.high) == pytest.approx(
            (difference.estimate - critical * error, difference.estimate + critical * error)
        )
        assert pair.p_adjusted == pytest.approx(range_tails(np.array([statistic]), len(samples), np.array([df]))[0], abs=1e-9)
        assert pair.detectable == pytest.approx(noncentrality(df, critical, 0.8) * error, rel=1e-6)
        assert pair.excludes_zero == (pair.p_adjusted is not None and pair.p_adjusted < 0.05)


def test_pairs_without_spread_have_only_their_difference() -> None:
    samples = [
        Sample("a", (0.5, 0.5)),
        Sample("b", (0.75, 0.75)),
        Sample("one", (0.6,)),
        Sample("none", ()),
        Sample("c", (0.1, 0.3)),
    ]
    found = {(pair.first, pair.second): pair for pair in pairwise(samples)}
    assert [*found] == list(combinations(["a", "b", "one", "c"], 2))
    assert {names for names, pair in found.items() if pair.p_adjusted is not None} == {("a", "c"), ("b", "c")}
    assert found["a", "b"].difference == -0.25
    assert found["a", "b"].note.startswith("no interval")
    assert len(pairwise(samples[:1])) == len(pairwise([])) == 0


def test_clearest_pairs_come_first() -> None:
    pairs = pairwise(arms(12))
    assert pairs.clearest(66) == tuple(pairs)
    few = pairs.clearest(5)
    largest = sorted(pair.p_adjusted or 0.0 for pair in pairs)[:5]
    assert [pair.p_adjusted for pair in few] == pytest.approx(largest, abs=1e-9)
    assert pairs.excluding_zero == sum(pair.excludes_zero for pair in pairs)


def cpu_s(count: int) -> float:
    """Return the lesser processor time of two comparisons of all pairs of so many arms."""
    samples, times = arms(count), []
    for _ in range(2):
        start = time.process_time()
        assert isinstance(pairwise(samples), AllPairs)
        times.append(time.process_time() - start)
    return min(times)


def test_time_of_pairs_grows_with_their_number() -> None:
    """Four times the pairs take at most 2.3 times 2.3 the processor time."""
    assert cpu_s(200) < 2.3**2 * cpu_s(100)
