"""Factorial analysis: main effects of the factors and their two-way interactions.

The model has a mean per cell (all interactions), so the least-squares estimates are the cells' means, and every effect is a
contrast of them with equal weights: runs missing from a cell do not bias the effects. The error of a contrast comes from its own
cells (`train.report.statistics.contrasts.contrast`), so that cells may have different variances.

Multiplicity: the intervals of all main effects of a grid are simultaneous by Sidak's inequality (1967, JASA 62: never too narrow,
whatever the correlations); those of all two-way interactions are a second family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from train.report.contracts import Sample
from train.report.grid_contracts import Cell, Grid, Interaction, MainEffect, MarginalMean, named
from train.report.statistics.contrasts import Contrast, SampleMoments, contrast, moments, sidak, two_sided_quantile
from train.text import listed, plural

UNKNOWN = "no interval: the spread between seeds is unknown"
NO_RUNS = "no combination of the other factors has runs on both sides"
ADDITIVE = "no interaction assumed"
ADDITIVE_NOTE = (
    "one run per combination: the spread between seeds is taken from what an additive model of the factors leaves over, which "
    "assumes that they do not interact; interactions would make the intervals wider"
)
POOLED_NOTE = "a combination with one run is taken to have the spread of the other combinations"
CellKey = tuple[str, ...]
"""One level per factor, in the order of the factors."""


@dataclass(frozen=True)
class _Table:
    """The cells of a grid. `factors`: name -> levels, the baseline first; `cells`: the cells that effects average over;
    `residual`: what stands for the spread between seeds where every cell has one run."""

    factors: Mapping[str, tuple[str, ...]]
    cells: Mapping[CellKey, SampleMoments]
    residual: SampleMoments | None = None

    def contexts(self, *fixed: str) -> list[dict[str, str]]:
        """Return all combinations of the levels of the factors not in `fixed`."""
        others = [factor for factor in self.factors if factor not in fixed]
        return [dict(zip(others, levels, strict=True)) for levels in product(*(self.factors[factor] for factor in others))]

    def key(self, levels: Mapping[str, str]) -> CellKey:
        return tuple(levels[factor] for factor in self.factors)

    def contrast(self, weights: Mapping[CellKey, float], *, additive: bool = True) -> Contrast:
        """`additive`: whether the contrast is one of the additive model, whose residuals then may tell the spread."""
        groups = [self.cells[key] for key in weights]
        pool = [self.residual] if self.residual and additive else list(self.cells.values())
        return contrast(list(weights.values()), groups, pool=pool)

    def runs(self, keys: Iterable[CellKey]) -> int:
        return sum(self.cells[key].n for key in keys)


def factorial(cells: Sequence[Cell], factors: Mapping[str, Sequence[str]], *, confidence: float = 0.95) -> Grid:
    """Analyse a grid. `factors`: name -> levels, the baseline level first.

    Cells with a run that diverged or learned nothing are excluded, because the mean of the remaining runs is a selection. Effects
    then average over the remaining combinations, and the notes name the missing ones.
    """
    levels = {factor: tuple(names) for factor, names in factors.items()}
    order = [(tuple(cell.levels[factor] for factor in levels), cell.sample) for cell in cells]
    used = {key: moments(sample.values) for key, sample in order if sample.values and not (sample.diverged or sample.untrained)}
    table = _Table(levels, used, _residual(levels, used) if all(cell.n == 1 for cell in used.values()) else None)
    lost = {key: _lost(sample) for key, sample in order if sample.diverged or sample.untrained}
    notes = [f"excluded because {why}: {_named(levels, key)}" for key, why in lost.items()]
    absent = [key for key in product(*levels.values()) if key not in {p for p, _ in order} or key not in used]
    notes += [f"no value: {_named(levels, key)}" for key in absent if key not in lost]
    notes += [ADDITIVE_NOTE] if table.residual else [POOLED_NOTE] if _borrows(used.values()) else []
    return Grid(
        main=tuple(_main_effects(table, confidence)),
        interactions=tuple(_interactions(table, confidence)),
        means=tuple(_marginal_means(table, confidence)),
        notes=tuple(notes),
    )


def _borrows(cells: Iterable[SampleMoments]) -> bool:
    """Whether some cells have one run and others more."""
    return {1} < {min(cell.n, 2) for cell in cells}


def _named(factors: Mapping[str, Sequence[str]], key: CellKey) -> str:
    return " ".join(map(named, factors, key))


def _lost(sample: Sample) -> str:
    """Return which runs of a cell have no value: `2 of 5 runs diverged and 1 of 5 learned nothing`."""
    counts = ((sample.diverged, "diverged"), (sample.untrained, "learned nothing"))
    texts = [f"{count} of {sample.ended} {word}" for count, word in counts if count]
    return listed([texts[0].replace(" of " + str(sample.ended), f" of {plural(sample.ended, 'run')}"), *texts[1:]])


def _residual(factors: Mapping[str, tuple[str, ...]], cells: Mapping[CellKey, SampleMoments]) -> SampleMoments | None:
    """Return the variance around an additive model of the factors, as of a group with these degrees of freedom; None without any.

    Where the factors do not interact, it is that between seeds: the levels of the other factors replicate an effect. Interactions
    add to it, so that intervals become too wide, not too narrow.
    """
    columns = [[1.0] * len(cells)]
    columns += [[float(key[i] == level) for key in cells] for i, levels in enumerate(factors.values()) for level in levels[1:]]
    design, values = np.array(columns).T, np.array([cell.mean for cell in cells.values()])
    df = len(cells) - int(np.linalg.matrix_rank(design)) if cells else 0
    if df < 1:
        return None
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    variance = float(rest @ rest) / df
    return SampleMoments(df + 1, 0.0, variance if variance > 1e-20 * float(values @ values) else 0.0)


def _main_effects(table: _Table, confidence: float) -> list[MainEffect]:
    drafts: list[tuple[Contrast | None, dict[str, Any]]] = []
    for factor, (baseline, *others) in table.factors.items():
        contexts = table.contexts(factor)
        for level in others:
            pairs = [(table.key(c | {factor: level}), table.key(c | {factor: baseline})) for c in contexts]
            pairs = [pair for pair in pairs if set(pair) <= set(table.cells)]
            weights = {key: sign / len(pairs) for pair in pairs for key, sign in zip(pair, (1.0, -1.0), strict=True)}
            labels = {"factor": factor, "level": level, "baseline": baseline}
            labels |= {
                "n": table.runs(treatment for treatment, _ in pairs),
                "n_baseline": table.runs(control for _, control in pairs),
            }
            labels |= {"combinations": len(pairs), "of_combinations": len(contexts)}
            drafts.append((table.contrast(weights) if pairs else None, labels))
    return _family(MainEffect, drafts, confidence, ADDITIVE if table.residual else "")


def _interactions(table: _Table, confidence: float) -> list[Interaction]:
    drafts: list[tuple[Contrast | None, dict[str, Any]]] = []
    for (first, (first_base, *first_others)), (second, (second_base, *second_others)) in combinations(table.factors.items(), 2):
        for first_level, second_level in product(first_others, second_others):
            corners = {
                (first_level, second_level): 1.0,
                (first_base, second_level): -1.0,
                (first_level, second_base): -1.0,
                (first_base, second_base): 1.0,
            }
            squares = [
                {table.key(c | {first: a, second: b}): sign for (a, b), sign in corners.items()}
                for c in table.contexts(first, second)
            ]
            squares = [square for square in squares if set(square) <= set(table.cells)]
            weights = {key: sign / len(squares) for square in squares for key, sign in square.items()}
            labels = {"first": first, "first_level": first_level, "first_baseline": first_base}
            labels |= {"second": second, "second_level": second_level, "second_baseline": second_base}
            drafts.append((table.contrast(weights, additive=False) if squares else None, labels))
    return _family(Interaction, drafts, confidence)


def _family(
    kind: Callable[..., Any], drafts: Sequence[tuple[Contrast | None, dict[str, Any]]], confidence: float, note: str = ""
) -> list[Any]:
    """Return the effects with Sidak's level for the number of contrasts that have an error. `note`: on those intervals."""
    count = sum(difference is not None and difference.has_error for difference, _ in drafts)
    effects = []
    for difference, labels in drafts:
        if difference is None or not difference.has_error:
            effects.append(
                kind(
                    difference=difference.estimate if difference else float("nan"),
                    note=UNKNOWN if difference else NO_RUNS,
                    **labels,
                )
            )
            continue
        effects.append(kind(difference=difference.estimate, note=note, **sidak(difference, count, confidence), **labels))
    return effects


def _marginal_means(table: _Table, confidence: float) -> list[MarginalMean]:
    """Average over the combinations of the other factors that all levels of the term have, so that the means are comparable."""
    means = []
    for term in [(factor,) for factor in table.factors] + list(combinations(table.factors, 2)):
        levels = [dict(zip(term, names, strict=True)) for names in product(*(table.factors[factor] for factor in term))]
        contexts = table.contexts(*term)
        present = [level for level in levels if any(table.key(c | level) in table.cells for c in contexts)]
        shared = [c for c in contexts if all(table.key(c | level) in table.cells for level in present)]
        for level in present if shared else []:
            keys = [table.key(c | level) for c in shared]
            mean = table.contrast({key: 1 / len(keys) for key in keys})
            half = two_sided_quantile(1 - confidence, mean.df) * mean.standard_error if mean.has_error else None
            low, high = (None, None) if half is None else (mean.estimate - half, mean.estimate + half)
            means.append(MarginalMean(level, mean.estimate, low, high, table.runs(keys)))
    return means
