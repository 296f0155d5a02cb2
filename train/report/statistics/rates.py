"""How often runs diverge or fail. Such runs are counted, never averaged in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import stats

from train.report.contracts import Rate, Sample


def rate(count: int, total: int, confidence: float = 0.95) -> Rate:
    """Wilson's interval (1927, JASA 22): holds its confidence with few runs, and at 0 and all of them."""
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Rate(count, total, float(interval.low), float(interval.high))


def divergence(samples: Iterable[Sample], confidence: float = 0.95) -> Rate:
    """Diverged runs among those that came to a result; failed and missing ones tell nothing of the training."""
    kept = list(samples)
    return rate(sum(sample.diverged for sample in kept), sum(sample.ended for sample in kept), confidence)


def unequal(pairs: Iterable[tuple[Rate, Rate]]) -> float:
    """p that the two rates are the same in each pair. One pair: Fisher's exact test (1922, JRSS 85). Several, such as two levels
    of a factor in each combination of the others: its distribution within each pair, summed over them (the exact form of Mantel &
    Haenszel 1959, JNCI 22), so that what the combinations do to both sides does not count. Two-sided by probability."""
    sums, seen = np.ones(1), 0
    for one, other in pairs:
        bad, total = one.count + other.count, one.total + other.total
        if total:
            sums = np.convolve(sums, stats.hypergeom.pmf(np.arange(bad + 1), total, bad, one.total))
            seen += one.count
    return min(1.0, float(sums[sums <= sums[seen] * (1 + 1e-9)].sum()))
