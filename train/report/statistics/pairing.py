"""Correlation between runs of different arms that share a seed: the same data order, perhaps the same initial weights.

The comparisons of this package treat runs as independent. With positive correlation that is cautious (intervals are wider than
necessary), and it is the only choice that does not depend on how similar the arms' networks are. With negative correlation the
intervals would be too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from train.report.contracts import Sample

PERMUTATIONS = 4999
MOST_SHUFFLED = 500_000
"""Numbers held at a time by the permutation test."""
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Pairing:
    """The correlation between arms at shared seeds.

    `correlation`: mean Pearson correlation over all pairs of the `arms` arms, at the `seeds` seeds that all of them have. `p`:
    two-sided, by a permutation test. `width`: factor by which pairing by seed would change the width of a single interval, at
    half the degrees of freedom.
    """

    correlation: float
    p: float
    arms: int
    seeds: int
    width: float


def pairing(samples: Sequence[Sample]) -> Pairing | None:
    """Measure the correlation by seed; None if fewer than two arms share three seeds, not counting arms without spread.

    The permutation test shuffles the seeds of every arm, which is exact for independent runs. Its generator is fixed.
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
    observed = float(_mean_correlation(scores[None])[0])
    extreme = sum(int((np.abs(some) >= abs(observed) - 1e-12).sum()) for some in _null_correlations(scores))
    return Pairing(observed, (extreme + 1) / (PERMUTATIONS + 1), len(rows), len(shared), _width(observed, len(shared)))


def _null_correlations(scores: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the mean correlations of `PERMUTATIONS` tables with shuffled seeds, a few tables at a time to save memory."""
    generator = np.random.default_rng(0)
    at_once = max(1, MOST_SHUFFLED // scores.size)
    for first in range(0, PERMUTATIONS, at_once):
        tables = np.broadcast_to(scores, (min(at_once, PERMUTATIONS - first), *scores.shape))
        yield _mean_correlation(generator.permuted(tables, axis=2))


def _mean_correlation(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean correlation over pairs of arms, from standard scores [tables, arms, seeds].

    The variance of the sum counts every pair twice.
    """
    arms, seeds = scores.shape[1:]
    return ((scores.sum(axis=1) ** 2).sum(axis=1) / seeds - arms) / (arms * (arms - 1))


def _width(correlation: float, seeds: int) -> float:
    quantiles = stats.t.isf(0.025, seeds - 1) / stats.t.isf(0.025, 2 * (seeds - 1))
    return float(quantiles * sqrt(max(0.0, 1 - correlation)))
