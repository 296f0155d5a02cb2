"""Means and variances of groups of runs, and contrasts of their means: the basis of comparisons and factorial analyses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np


@dataclass(frozen=True)
class SampleMoments:
    """Number, mean and unbiased variance of the values of a group. `variance` is 0 for one run, whose spread is unknown."""

    n: int
    mean: float
    variance: float

    @property
    def mean_variance(self) -> float:
        return self.variance / self.n


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means and its standard error. `df` is infinite where nothing varies: then there is no interval."""

    estimate: float
    standard_error: float
    df: float

    @property
    def has_error(self) -> bool:
        """Whether the runs determine the standard error."""
        return self.standard_error > 1e-12 * max(1.0, abs(self.estimate)) and 0 < self.df < inf


def moments(values: Sequence[float]) -> SampleMoments:
    """Return number, mean and variance of `values`.

    ValueError without values or with values that are not finite: those are outcomes to count, never to average.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("a mean needs finite values of at least one run")
    constant = bool((array == array[0]).all())  # exact test: the computed variance of equal numbers can be 1e-34
    mean = float(array[0]) if constant else float(array.mean())
    return SampleMoments(array.size, mean, 0.0 if constant else float(array.var(ddof=1)))


def pooled_variance(groups: Sequence[SampleMoments]) -> tuple[float, int]:
    """Return the common variance of all groups and its degrees of freedom; (0, 0) when every group has one run."""
    df = sum(group.n - 1 for group in groups)
    return (sum(group.variance * (group.n - 1) for group in groups) / df if df else 0.0), df


def contrast(weights: Sequence[float], groups: Sequence[SampleMoments], *, pool: Sequence[SampleMoments] = ()) -> Contrast:
    """Return sum w_i mean_i over `groups`, with the error that follows from the variance of each group.

    The degrees of freedom are Satterthwaite's (1946, "An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2): V^2 / sum(V_i^2 / df_i) for V = sum V_i. A group with one run has no variance of its own and uses the
    common one of `pool`, which can be left out where every group has two runs or only the estimate is used.
    """
    common, common_df = pooled_variance(pool)
    estimate = sum(weight * group.mean for weight, group in zip(weights, groups, strict=True))
    own = [(w**2 * g.mean_variance, g.n - 1) for w, g in zip(weights, groups, strict=True) if g.n > 1]
    borrowed = sum(w**2 * common / g.n for w, g in zip(weights, groups, strict=True) if w != 0 and g.n == 1)
    parts = [(variance, df) for variance, df in [*own, (borrowed, common_df)] if variance > 0 and df > 0]
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / df for variance, df in parts) if parts else inf
    return Contrast(estimate, sqrt(total), df)
