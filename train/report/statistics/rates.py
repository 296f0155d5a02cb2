"""How often runs diverge or fail. Such runs are counted, never averaged in."""

from __future__ import annotations

from collections.abc import Iterable

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


def unequal(one: Rate, other: Rate) -> float:
    """p of Fisher's exact test (1922, JRSS 85) that two shares are the same; 1 where a side has no run."""
    table = [[side.count, side.total - side.count] for side in (one, other)]
    _, p = stats.fisher_exact(table)
    return float(p)
