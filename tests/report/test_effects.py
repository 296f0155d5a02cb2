"""Factorial grids, against the means of a published experiment and against plain least squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from itertools import product

import numpy as np
import pytest
from scipy import stats

from train.report.contracts import Sample
from train.report.grid_contracts import Cell
from train.report.statistics.effects import factorial

# Length of odontoblasts of guinea pigs by supplement and dose of vitamin C: Crampton (1947, Journal of Nutrition 33), as kept in
# R's `ToothGrowth`.
TEETH = {
    ("OJ", "0.5"): (15.2, 21.5, 17.6, 9.7, 14.5, 10.0, 8.2, 9.4, 16.5, 9.7),
    ("OJ", "1"): (19.7, 23.3, 23.6, 26.4, 20.0, 25.2, 25.8, 21.2, 14.5, 27.3),
    ("OJ", "2"): (25.5, 26.4, 22.4, 24.5, 24.8, 30.9, 26.4, 27.3, 29.4, 23.0),
    ("VC", "0.5"): (4.2, 11.5, 7.3, 5.8, 6.4, 10.0, 11.2, 11.2, 5.2, 7.0),
    ("VC", "1"): (16.5, 16.5, 15.2, 17.3, 22.5, 17.3, 13.6, 14.5, 18.8, 15.5),
    ("VC", "2"): (23.6, 18.5, 33.9, 25.5, 26.4, 32.5, 26.7, 21.5, 23.3, 29.5),
}
FACTORS = {"supp": ("OJ", "VC"), "dose": ("0.5", "1", "2")}


def cells_of(values: Mapping[tuple[str, ...], tuple[float, ...]], factors: Mapping[str, tuple[str, ...]]) -> list[Cell]:
    return [Cell(dict(zip(factors, key, strict=True)), Sample(" ".join(key), numbers)) for key, numbers in values.items()]


def test_factorial_effects_are_differences_of_published_means() -> None:
    grid = factorial(cells_of(TEETH, FACTORS), FACTORS)
    main = {(effect.factor, effect.level): effect for effect in grid.main}
    assert main["supp", "VC"].difference == pytest.approx(16.9633 - 20.6633, abs=1e-4)
    assert main["dose", "2"].difference == pytest.approx(26.100 - 10.605)
    assert all(effect.excludes_zero for effect in grid.main)
    interactions = {(effect.first_level, effect.second_level): effect for effect in grid.interactions}
    assert interactions["VC", "2"].difference == pytest.approx((26.14 - 7.98) - (26.06 - 13.23))
    means = {tuple(mean.levels.values()): mean for mean in grid.means}
    assert means["OJ", "1"].mean == pytest.approx(22.70)
    assert means["OJ",].n == 30
    assert grid.notes == ()


def test_factorial_main_effect_has_the_error_of_its_cells() -> None:
    """Satterthwaite's degrees of freedom over six cells, and Sidak's level for three main effects."""
    grid = factorial(cells_of(TEETH, FACTORS), FACTORS)
    effect = next(effect for effect in grid.main if effect.factor == "supp")
    parts = np.array([np.var(values, ddof=1) / len(values) / 3**2 for values in TEETH.values()])
    error, df = np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / 9).sum()
    p = 2 * stats.t.sf(abs(effect.difference) / error, df)
    half = stats.t.isf((1 - 0.95 ** (1 / 3)) / 2, df) * error
    assert effect.p_adjusted == pytest.approx(1 - (1 - p) ** 3)
    assert (effect.low, effect.high) == (pytest.approx(effect.difference - half), pytest.approx(effect.difference + half))


def test_factorial_unbalanced_equals_least_squares() -> None:
    """The reference is a design of effect codes with all interactions."""
    generator = np.random.default_rng(2)
    factors = {"a": ("0", "1", "2"), "b": ("0", "1"), "c": ("0", "1")}
    keys = list(product(*factors.values()))
    values = {p: tuple(generator.normal(int(p[0]) + int(p[1]) * int(p[2]), 1, int(generator.integers(2, 6)))) for p in keys}
    grid = factorial(cells_of(values, factors), factors)

    def codes(factor: str, level: str) -> np.ndarray:
        count = len(factors[factor])
        return np.eye(count - 1)[int(level)] if int(level) < count - 1 else -np.ones(count - 1)

    terms = [(), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    rows = []
    for key, numbers in values.items():
        coded = {factor: codes(factor, level) for factor, level in zip(factors, key, strict=True)}
        row = [reduce(np.kron, [coded[factor] for factor in term], np.ones(1)) for term in terms]
        rows += [np.concatenate(row)] * len(numbers)
    y = np.array([number for numbers in values.values() for number in numbers])
    ends = np.cumsum([math.prod(len(factors[factor]) - 1 for factor in term) for term in terms])[:-1]
    estimates = dict(zip(terms, np.split(np.linalg.lstsq(np.array(rows), y, rcond=None)[0], ends), strict=True))

    def step(factor: str, level: str, baseline: str) -> np.ndarray:
        return codes(factor, level) - codes(factor, baseline)

    assert (len(grid.main), len(grid.interactions)) == (4, 5)
    for effect in grid.main:
        expected = step(effect.factor, effect.level, effect.baseline) @ estimates[effect.factor,]
        assert effect.difference == pytest.approx(expected)
    for effect in grid.interactions:
        first = step(effect.first, effect.first_level, effect.first_baseline)
        second = step(effect.second, effect.second_level, effect.second_baseline)
        assert effect.difference == pytest.approx(np.kron(first, second) @ estimates[effect.first, effect.second])


def test_factorial_excludes_and_notes_cells_with_divergence() -> None:
    cells = cells_of(TEETH, FACTORS)
    cells[0] = Cell(cells[0].levels, Sample("OJ 0.5", (1.0, 2.0, 3.0), diverged=7))
    grid = factorial(cells, FACTORS)
    assert grid.notes == ("excluded because 7 of 10 runs diverged: supp=OJ dose=0.5",)
    main = {(effect.factor, effect.level): effect for effect in grid.main}
    supplement = main["supp", "VC"]
    assert (supplement.combinations, supplement.of_combinations, supplement.n) == (2, 3, 20)
    assert supplement.difference == pytest.approx(((16.77 - 22.70) + (26.14 - 26.06)) / 2)
    assert main["dose", "1"].difference == pytest.approx(16.77 - 7.98)
    assert [effect.low for effect in grid.interactions] == [None, None]
    assert {mean.levels["dose"] for mean in grid.means if len(mean.levels) == 2 and mean.levels["supp"] == "OJ"} == {"1", "2"}


def test_factorial_notes_a_missing_combination() -> None:
    grid = factorial(cells_of(TEETH, FACTORS)[1:], FACTORS)
    assert grid.notes == ("no value: supp=OJ dose=0.5",)


def test_factorial_effects_are_unbiased_by_missing_runs() -> None:
    """The truth is additive without noise in the means: runs missing at random must not mix the factors."""
    values: dict[tuple[str, ...], tuple[float, ...]] = {
        key: (base - 1, base + 1)
        for key, base in ((("0", "0"), 10.0), (("0", "1"), 20.0), (("1", "0"), 13.0), (("1", "1"), 23.0))
    }
    values["1", "1"] = (22.0, 23.0, 24.0, 22.5, 23.5)
    grid = factorial(cells_of(values, {"a": ("0", "1"), "b": ("0", "1")}), {"a": ("0", "1"), "b": ("0", "1")})
    assert [effect.difference for effect in grid.main] == pytest.approx([3.0, 10.0])
    assert [effect.difference for effect in grid.interactions] == pytest.approx([0.0])


def test_factorial_with_one_run_per_cell_has_no_intervals() -> None:
    factors = {"a": ("0", "1"), "b": ("0", "1")}
    grid = factorial(cells_of({key: (float(key[0]),) for key in product("01", "01")}, factors), factors)
    assert [effect.difference for effect in grid.main] == [1.0, 0.0]
    assert [effect.low for effect in (*grid.main, *grid.interactions)] == [None] * 3
    assert all("no interval" in effect.note for effect in grid.main)
    assert [mean.low for mean in grid.means] == [None] * 8


def test_factorial_cell_of_one_run_uses_the_pooled_spread() -> None:
    values = dict(TEETH) | {("OJ", "1"): (22.7,)}
    grid = factorial(cells_of(values, FACTORS), FACTORS)
    assert all(effect.low is not None for effect in grid.main)
