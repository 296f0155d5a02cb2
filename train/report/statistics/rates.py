"""Rates of divergence and of training. Runs that diverged or learned nothing are counted, never averaged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import stats

from train.report.contracts import Rate, Sample


def rate(count: int, total: int, confidence: float = 0.95) -> Rate:
    """Return a rate with Wilson's interval (1927, JASA 22), which keeps its coverage with few runs and for rates of 0 and 1."""
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Rate(count, total, float(interval.low), float(interval.high))


def divergence(samples: Iterable[Sample], confidence: float = 0.95) -> Rate:
    """Return the rate of divergence among runs with a result; failed and missing runs say nothing about the training."""
    kept = list(samples)
    return rate(sum(sample.diverged for sample in kept), sum(sample.ended for sample in kept), confidence)


def training(samples: Iterable[Sample], confidence: float = 0.95) -> Rate:
    """Return the rate of runs that trained among those with a result."""
    kept = list(samples)
    return rate(sum(len(sample.values) for sample in kept), sum(sample.ended for sample in kept), confidence)


def differ(left: Rate, right: Rate) -> bool:
    """Return whether two measured rates are not the same; False where one of them is unknown."""
    return left.total > 0 and right.total > 0 and left.count * right.total != right.count * left.total


def equal_rates_p(pairs: Iterable[tuple[Rate, Rate]]) -> float:
    """Return the exact p value of the hypothesis that the two rates are equal in each pair. Two-sided by probability.

    One pair: Fisher's exact test (1922, JRSS 85). Several pairs, such as two levels of a factor in each combination of the
    others: Fisher's distribution within each pair, summed over the pairs (the exact form of Mantel & Haenszel 1959, JNCI 22), so
    that effects of a combination on both sides cancel.
    """
    distribution, observed = np.ones(1), 0
    for left, right in pairs:
        count, total = left.count + right.count, left.total + right.total
        if total:
            distribution = np.convolve(distribution, stats.hypergeom.pmf(np.arange(count + 1), total, count, left.total))
            observed += left.count
    return min(1.0, float(distribution[distribution <= distribution[observed] * (1 + 1e-9)].sum()))
