"""How far a shared seed makes two arms' runs move together: the same order of the data, perhaps the same initial weights.

The comparisons of this package take runs as independent. That is the cautious choice where shared seeds correlate positively (the
intervals are then wider than they need to be), and the only one that does not depend on how alike the arms' networks are. With
a negative correlation the intervals would be too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from train.report.contracts import Sample

PERMUTATIONS = 4999
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Pairing:
    """`correlation`: mean of Pearson's over all pairs of the `arms` arms, at the `seeds` seeds that all of them have; `p`: of a
    permutation test, two-sided; `width`: what pairing by seed would multiply the width of a single interval by, at half the
    degrees of freedom."""

    correlation: float
    p: float
    arms: int
    seeds: int
    width: float


def pairing(samples: Sequence[Sample]) -> Pairing | None:
    """None where fewer than two arms share three seeds, not counting arms in which nothing varies.

    The permutation test deals the seeds of every arm anew, which is exact for runs that are independent. Its generator is fixed.
    """
    tables = [
        dict(zip(sample.seeds, sample.values, strict=True)) for sample in samples if len(set(sample.values)) > 1 and sample.seeds
    ]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    rows = np.array([[table[seed] for seed in shared] for table in tables]) if len(shared) >= LEAST_SEEDS else np.empty((0, 0))
    rows = rows[rows.std(axis=1) > 0] if rows.size else rows
    if len(rows) < 2:
        return None
    scores = (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
    seen = float(_mean_correlation(scores[None])[0])
    generator = np.random.default_rng(0)
    dealt = generator.permuted(np.broadcast_to(scores, (PERMUTATIONS, *scores.shape)), axis=2)
    by_chance = _mean_correlation(dealt)
    extreme = int((np.abs(by_chance) >= abs(seen) - 1e-12).sum())
    return Pairing(seen, (extreme + 1) / (PERMUTATIONS + 1), len(rows), len(shared), _width(seen, len(shared)))


def _mean_correlation(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of standard scores (tables, arms, seeds): the variance of the sum holds every pair twice."""
    arms, seeds = scores.shape[1:]
    return ((scores.sum(axis=1) ** 2).sum(axis=1) / seeds - arms) / (arms * (arms - 1))


def _width(correlation: float, seeds: int) -> float:
    quantiles = stats.t.isf(0.025, seeds - 1) / stats.t.isf(0.025, 2 * (seeds - 1))
    return float(quantiles * sqrt(max(0.0, 1 - correlation)))
