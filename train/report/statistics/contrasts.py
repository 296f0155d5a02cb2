"""Contrasts of the means of groups of runs: their errors, simultaneous intervals and minimum detectable effects.

Student's t by SciPy's special functions gives the numbers of `scipy.stats.t` without its 0.1 ms per call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import expm1, inf, log1p, sqrt
from typing import Any

import numpy as np
from scipy import special

from train.report.contracts import Effect
from train.report.statistics.studentized import noncentrality

POWER = 0.8
MOST_RUNS = 4096


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


def two_sided_p(statistic: float, df: float) -> float:
    """Return P(|T| >= |statistic|)."""
    return float(2 * special.stdtr(df, -abs(statistic)))


def two_sided_quantile(miss: float, df: float) -> float:
    """Return the t with P(|T| >= t) = miss."""
    return float(-special.stdtrit(df, miss / 2))


def sidak(difference: Contrast, count: int, confidence: float) -> dict[str, Any]:
    """Return the numbers of one of `count` simultaneous intervals by Sidak's inequality (1967, JASA 62).

    The inequality holds for any correlation.
    """
    p = two_sided_p(difference.estimate / difference.standard_error, difference.df)
    p_adjusted = 1.0 if p >= 1 else -expm1(count * log1p(-p))
    return effect_numbers(difference, sidak_quantile(difference.df, count, confidence), p_adjusted)


def effect_numbers(difference: Contrast, critical: float, p_adjusted: float) -> dict[str, Any]:
    """Return the fields of an `Effect` for an interval of half width `critical` standard errors."""
    half = critical * difference.standard_error
    return {
        "low": difference.estimate - half,
        "high": difference.estimate + half,
        "p_adjusted": p_adjusted,
        "detectable": smallest_detectable(difference.standard_error, difference.df, critical),
        "standard_error": difference.standard_error,
        "df": difference.df,
    }


def sidak_quantile(df: float, count: int, confidence: float) -> float:
    """Return the half width, in standard errors, of one of `count` simultaneous intervals (Sidak 1967, JASA 62)."""
    return two_sided_quantile(-expm1(log1p(confidence - 1) / count), df)


def smallest_detectable(standard_error: float, df: float, critical: float) -> float:
    """Return the true difference whose interval (half width `critical` standard errors) excludes 0 with probability `POWER`.

    Computed from the noncentral t distribution. It depends on the spread of the runs, never on the observed difference: power at
    the observed effect only repeats the p value (Hoenig & Heisey 2001, "The abuse of power", The American Statistician 55).
    Accurate to 1 %, as inputs are rounded for the cache; the spread is known far less precisely.
    """
    return standard_error * _noncentrality(round(df, 1), round(critical, 2))


@lru_cache(maxsize=4096)
def _noncentrality(df: float, critical: float) -> float:
    return noncentrality(df, critical, POWER)


def detectable(sd: float, n: int, arms: int) -> float:
    """Return the minimum detectable difference to the baseline with `n` runs in each of `arms` arms and the baseline (Welch)."""
    df = 2.0 * (n - 1)
    return smallest_detectable(sd * sqrt(2 / n), df, sidak_quantile(df, arms, 0.95))


def runs_needed(difference: float, sd: float, arms: int) -> int | None:
    """Return the runs per arm needed to detect a true `difference` with probability `POWER`; None above 4096."""
    return _fewest(lambda runs: detectable(sd, runs, arms) <= difference, known_too_few=1)


def runs_to_detect(difference: float, effect: Effect, runs: int, count: int, confidence: float = 0.95) -> int | None:
    """Return the runs per arm with which an interval would exclude 0 with probability `POWER` if `difference` was the true one.

    `effect`: what `runs` per arm gave; `count`: the intervals of the family. The standard error falls with the root of the number
    of runs, and the degrees of freedom rise in proportion. None above 4096, and where `effect` has no standard error.
    """
    if effect.standard_error is None or effect.df is None:
        return None
    error, df = effect.standard_error, effect.df

    def detects(more: int) -> bool:
        more_df = df * ((more - 1) / (runs - 1) if runs > 1 else more)
        critical = sidak_quantile(more_df, count, confidence)
        return smallest_detectable(error * sqrt(runs / more), more_df, critical) <= difference

    return _fewest(detects, known_too_few=max(1, runs))


def _fewest(detects: Callable[[int], bool], known_too_few: int) -> int | None:
    """Return the smallest number that `detects`, which all larger ones do; None above `MOST_RUNS`."""
    low, high = known_too_few, known_too_few + 1
    while not detects(high):
        low, high = high, high * 2
        if high > MOST_RUNS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high
