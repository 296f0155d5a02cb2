"""A factorial grid: what each factor does, and how far one factor's effect depends on another.

The model has a mean per cell (all interactions), so the least-squares estimates are the cells' means, and every effect is a
contrast of them with equal weights: some runs missing from a cell shift no effect. The error of a contrast comes from its own
cells (`train.report.statistics.moments.contrast`), so that cells may vary differently.

Multiplicity: the intervals of all main effects of a grid hold together with the confidence asked for, by Sidak's inequality
(1967, JASA 62: never too narrow, whatever the correlations); those of all two-way interactions are a second family.
F tests are the usual ones of a fixed-effects analysis of variance, type III; they pool the spread of all cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product
from typing import Any

import numpy as np
from scipy import special

from train.report.contracts import Cell, FTest, Grid, Interaction, MainEffect, MarginalMean
from train.report.statistics.compare import METHODS
from train.report.statistics.intervals import sidak
from train.report.statistics.moments import Contrast, SampleMoments, Variances, contrast, moments, pooled_variance
from train.report.statistics.student import two_sided_quantile

UNKNOWN = "no interval: nothing tells the spread between seeds"
EMPTY = "no combination of the other factors has runs on both sides"
Place = tuple[str, ...]
"""One level per factor, in the order of the factors."""


@dataclass(frozen=True)
class _Table:
    """`factors`: name -> levels, the baseline first; `cells`: those that are averaged over."""

    factors: Mapping[str, tuple[str, ...]]
    cells: Mapping[Place, SampleMoments]
    variances: Variances

    def contexts(self, *fixed: str) -> list[dict[str, str]]:
        """All combinations of the levels of the other factors."""
        others = [factor for factor in self.factors if factor not in fixed]
        return [dict(zip(others, levels, strict=True)) for levels in product(*(self.factors[factor] for factor in others))]

    def at(self, levels: Mapping[str, str]) -> Place:
        return tuple(levels[factor] for factor in self.factors)

    def contrast(self, weights: Mapping[Place, float]) -> Contrast:
        groups = [self.cells[place] for place in weights]
        return contrast(list(weights.values()), groups, pool=list(self.cells.values()), variances=self.variances)

    def runs(self, places: Iterable[Place]) -> int:
        return sum(self.cells[place].n for place in places)


def factorial(
    cells: Sequence[Cell],
    factors: Mapping[str, Sequence[str]],
    *,
    confidence: float = 0.95,
    variances: Variances = "unequal",
) -> Grid:
    """`factors`: name -> levels, the baseline level first. Cells in which a run diverged are left out, as the mean of those that
    did not is of another kind; effects then average over the combinations that are left, and the notes name what is not there.
    """
    levels = {factor: tuple(names) for factor, names in factors.items()}
    order = [(tuple(cell.levels[factor] for factor in levels), cell.sample) for cell in cells]
    used = {place: moments(sample.values) for place, sample in order if sample.values and not sample.diverged}
    table = _Table(levels, used, variances)
    notes = [f"left out, as {s.diverged} of {s.ended} runs diverged: {_named(levels, p)}" for p, s in order if s.diverged]
    absent = [place for place in product(*levels.values()) if place not in {p for p, _ in order} or place not in used]
    notes += [f"without a value: {_named(levels, place)}" for place in absent if place not in {p for p, s in order if s.diverged}]
    return Grid(
        main=tuple(_main_effects(table, confidence)),
        interactions=tuple(_interactions(table, confidence)),
        tests=tuple(_f_tests(table)),
        means=tuple(_marginal_means(table, confidence)),
        notes=tuple(notes),
    )


def _named(factors: Mapping[str, Sequence[str]], place: Place) -> str:
    return " ".join(f"{factor}={level}" for factor, level in zip(factors, place, strict=True))


def _main_effects(table: _Table, confidence: float) -> list[MainEffect]:
    drafts: list[tuple[Contrast | None, dict[str, Any]]] = []
    for factor, (baseline, *others) in table.factors.items():
        contexts = table.contexts(factor)
        for level in others:
            pairs = [(table.at(c | {factor: level}), table.at(c | {factor: baseline})) for c in contexts]
            pairs = [pair for pair in pairs if set(pair) <= set(table.cells)]
            weights = {place: sign / len(pairs) for pair in pairs for place, sign in zip(pair, (1.0, -1.0), strict=True)}
            about = {"factor": factor, "level": level, "baseline": baseline}
            about |= {"n": table.runs(ours for ours, _ in pairs), "n_baseline": table.runs(theirs for _, theirs in pairs)}
            about |= {"combinations": len(pairs), "of_combinations": len(contexts)}
            drafts.append((table.contrast(weights) if pairs else None, about))
    return _family(MainEffect, drafts, table.variances, confidence)


def _interactions(table: _Table, confidence: float) -> list[Interaction]:
    drafts: list[tuple[Contrast | None, dict[str, Any]]] = []
    for (first, (first_base, *ones)), (second, (second_base, *twos)) in combinations(table.factors.items(), 2):
        for one, two in product(ones, twos):
            corners = {(one, two): 1.0, (first_base, two): -1.0, (one, second_base): -1.0, (first_base, second_base): 1.0}
            squares = [
                {table.at(c | {first: a, second: b}): sign for (a, b), sign in corners.items()}
                for c in table.contexts(first, second)
            ]
            squares = [square for square in squares if set(square) <= set(table.cells)]
            weights = {place: sign / len(squares) for square in squares for place, sign in square.items()}
            about = {"first": first, "first_level": one, "first_baseline": first_base}
            about |= {"second": second, "second_level": two, "second_baseline": second_base}
            drafts.append((table.contrast(weights) if squares else None, about))
    return _family(Interaction, drafts, table.variances, confidence)


def _family(
    kind: Callable[..., Any], drafts: Sequence[tuple[Contrast | None, dict[str, Any]]], variances: Variances, confidence: float
) -> list[Any]:
    """With Sidak's level for as many contrasts as have an error."""
    count = sum(made is not None and made.known for made, _ in drafts)
    effects = []
    for made, about in drafts:
        if made is None or not made.known:
            effects.append(kind(difference=made.estimate if made else float("nan"), note=UNKNOWN if made else EMPTY, **about))
            continue
        numbers = sidak(made, count, confidence)
        effects.append(kind(difference=made.estimate, method=METHODS[variances], **numbers, **about))
    return effects


def _f_tests(table: _Table) -> list[FTest]:
    """Of every factor and pair of factors, by the cells' means m: F = (C m)' (C D C')^-1 (C m) / (q s^2), D = diag(1 / n)."""
    sizes = {factor: len(levels) for factor, levels in table.factors.items()}
    terms = [(factor,) for factor in sizes] + list(combinations(sizes, 2))
    places = list(product(*table.factors.values()))
    spread, df = pooled_variance(list(table.cells.values()))
    tests = []
    for term in terms:
        count = int(np.prod([sizes[factor] - 1 for factor in term]))
        if count == 0:
            continue
        if len(table.cells) < len(places) or spread == 0:
            tests.append(FTest(term, None, count, df, None))
            continue
        means = np.array([table.cells[place].mean for place in places])
        weights = reduce(
            np.kron, [_against_first(n) if factor in term else np.full((1, n), 1 / n) for factor, n in sizes.items()]
        )
        scatter = weights @ np.diag([1 / table.cells[place].n for place in places]) @ weights.T
        statistic = float((weights @ means) @ np.linalg.solve(scatter, weights @ means)) / count / spread
        tests.append(FTest(term, statistic, count, df, float(special.fdtrc(count, df, statistic))))
    return tests


def _against_first(levels: int) -> np.ndarray:
    return np.hstack([-np.ones((levels - 1, 1)), np.eye(levels - 1)])


def _marginal_means(table: _Table, confidence: float) -> list[MarginalMean]:
    """Over the combinations of the other factors that all levels of the term have, so that the means can be compared."""
    made = []
    for term in [(factor,) for factor in table.factors] + list(combinations(table.factors, 2)):
        levels = [dict(zip(term, names, strict=True)) for names in product(*(table.factors[factor] for factor in term))]
        contexts = table.contexts(*term)
        present = [level for level in levels if any(table.at(c | level) in table.cells for c in contexts)]
        shared = [c for c in contexts if all(table.at(c | level) in table.cells for level in present)]
        for level in present if shared else []:
            places = [table.at(c | level) for c in shared]
            mean = table.contrast({place: 1 / len(places) for place in places})
            half = two_sided_quantile(1 - confidence, mean.df) * mean.standard_error if mean.known else None
            low, high = (None, None) if half is None else (mean.estimate - half, mean.estimate + half)
            made.append(MarginalMean(level, mean.estimate, low, high, table.runs(places)))
    return made
