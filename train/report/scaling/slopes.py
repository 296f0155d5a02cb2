"""Exponents: the slopes of the logarithm of a statistic against the logarithm of the size, with simultaneous intervals.

A slope is a contrast of the means of the sizes, by least squares with equal weights; its error comes from the spread between the
seeds of each size (`train.report.statistics.contrasts.contrast`), so that small networks may vary more. The networks of a seed
share images, which makes the intervals wider than they need to be, not narrower. All intervals of a page hold jointly, by Sidak's
inequality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.report.scaling.measure import Group, Series
from train.report.statistics.contrasts import Contrast, contrast, moments, sidak_quantile

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Exponent:
    """A slope with its interval. `low`, `high`: None where the runs do not determine the spread."""

    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Slope:
    """The exponent of a statistic of a layer. `judged`: the one that a verdict goes by, of a gradient that relative to the last
    hidden layer; `expected`: theory's, None where it is silent; `change`: the mean factor from the smallest to the largest."""

    series: Series
    exponent: Exponent | None
    judged: Exponent | None
    expected: float | None
    change: float


def slopes_of(groups: Sequence[Group]) -> list[list[Slope]]:
    """Return the slopes of every group, in the order of its series."""
    raw = [[_contrast(series.logs) for series in group.series] for group in groups]
    relative = [[_contrast(series.relative) for series in group.series] for group in groups]
    count = sum(found is not None and found.has_error for table in (*raw, *relative) for found in table)
    return [
        [
            _slope(series, own, other, count)
            for series, own, other in zip(group.series, own_contrasts, other_contrasts, strict=True)
        ]
        for group, own_contrasts, other_contrasts in zip(groups, raw, relative, strict=True)
    ]


def _slope(series: Series, own: Contrast | None, relative: Contrast | None, count: int) -> Slope:
    means = [sum(values) / len(values) for _, values in sorted(series.logs.items())]
    exponent = _exponent(own, series.logs, count)
    return Slope(
        series,
        exponent,
        _exponent(relative, series.relative, count) if series.relative else exponent,
        least_squares(series.expected),
        math.exp(means[-1] - means[0]) if means else math.nan,
    )


def _contrast(logs: Mapping[float, Sequence[float]]) -> Contrast | None:
    """Return the slope of the means; None for fewer than two sizes."""
    if len(logs) < 2:
        return None
    groups = [moments(values) for values in logs.values()]
    return contrast(slope_weights(list(logs)), groups, pool=groups)


def slope_weights(sizes: Sequence[float]) -> list[float]:
    """Return the weights with which the values at `sizes` give the least-squares slope against the logarithm of the size."""
    x = [math.log(size) for size in sizes]
    centre = sum(x) / len(x)
    squares = sum((value - centre) ** 2 for value in x)
    return [(value - centre) / squares for value in x]


def least_squares(logs: Mapping[float, float]) -> float | None:
    """Return the slope of single values; None for fewer than two."""
    if len(logs) < 2:
        return None
    return sum(weight * value for weight, value in zip(slope_weights(list(logs)), logs.values(), strict=True))


def _exponent(found: Contrast | None, logs: Mapping[float, Sequence[float]], count: int) -> Exponent | None:
    if found is None:
        return None
    if found.has_error:
        half = sidak_quantile(found.df, count, CONFIDENCE) * found.standard_error
        return Exponent(found.estimate, found.estimate - half, found.estimate + half)
    if all(len(values) > 1 for values in logs.values()):  # equal in all runs: nothing to be uncertain of
        return Exponent(found.estimate, found.estimate, found.estimate)
    return Exponent(found.estimate)
