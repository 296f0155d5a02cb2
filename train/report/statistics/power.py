"""Minimum detectable effect of a design: from an assumed spread before a sweep, from the measured spread after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import expm1, log1p, sqrt

from scipy import optimize, stats

from train.report.statistics.student import two_sided_quantile

POWER = 0.8
MOST_RUNS = 4096


@dataclass(frozen=True)
class PowerPlan:
    """The minimum detectable effect `detectable` with `n` runs per arm."""

    n: int
    detectable: float


def sidak_quantile(df: float, count: int, confidence: float) -> float:
    """Return the half width, in standard errors, of one of `count` simultaneous intervals (Sidak 1967, JASA 62)."""
    return two_sided_quantile(-expm1(log1p(confidence - 1) / count), df)


def smallest_detectable(standard_error: float, df: float, critical: float, power: float = POWER) -> float:
    """Return the true difference whose interval (half width `critical` standard errors) excludes 0 with probability `power`.

    Computed from the noncentral t distribution. It depends on the spread of the runs, never on the observed difference: power at
    the observed effect only repeats the p value (Hoenig & Heisey 2001, "The abuse of power", The American Statistician 55).
    Accurate to 1 %, as inputs are rounded for the cache; the spread is known far less precisely.
    """
    return standard_error * _noncentrality(round(df, 1), round(critical, 2), power)


@lru_cache(maxsize=4096)
def _noncentrality(df: float, critical: float, power: float) -> float:
    def excess(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, df, noncentrality)) - power

    high = critical + 2.0
    while excess(high) < 0:
        high *= 1.5
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-6))  # type: ignore[arg-type]


def detectable(sd: float, n: int, arms: int, *, confidence: float = 0.95, power: float = POWER) -> float:
    """Return the minimum detectable difference to the baseline with `n` runs in each of `arms` arms and the baseline (Welch)."""
    df = 2.0 * (n - 1)
    critical = sidak_quantile(df, arms, confidence)
    return smallest_detectable(sd * sqrt(2 / n), df, critical, power)


def plan(sd: float, arms: int, runs: Sequence[int] = (2, 3, 5, 8, 10, 20), *, confidence: float = 0.95) -> tuple[PowerPlan, ...]:
    """Return the minimum detectable effect for each number of runs per arm, at the spread `sd` between seeds."""
    return tuple(PowerPlan(n, detectable(sd, n, arms, confidence=confidence)) for n in runs)


def runs_needed(difference: float, sd: float, arms: int, *, confidence: float = 0.95, power: float = POWER) -> int | None:
    """Return the runs per arm needed to detect a true `difference` with probability `power`; None above 4096."""

    def enough(n: int) -> bool:
        return detectable(sd, n, arms, confidence=confidence, power=power) <= difference

    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > MOST_RUNS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
