"""Simultaneous intervals: from a contrast with its error to the numbers of an `Effect`."""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1, log1p
from typing import Any

from train.report.statistics.moments import Contrast
from train.report.statistics.power import sidak_quantile, smallest_detectable
from train.report.statistics.student import two_sided_p


def alone(made: Contrast) -> float:
    """The two-sided p value of this contrast, as if it were the only one."""
    return two_sided_p(made.estimate / made.standard_error, made.df)


def sidak(made: Contrast, count: int, confidence: float) -> dict[str, Any]:
    """As one of `count` contrasts that hold together by Sidak's inequality (1967, JASA 62), whatever their correlations."""
    critical = sidak_quantile(made.df, count, confidence)
    p = alone(made)
    return effect_numbers(made, critical, 1.0 if p >= 1 else -expm1(count * log1p(-p)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6)."""
    largest, adjusted = 0.0, {}
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return adjusted


def effect_numbers(made: Contrast, critical: float, p_adjusted: float) -> dict[str, Any]:
    """The fields of an `Effect` for an interval of half width `critical` standard errors."""
    half = critical * made.standard_error
    return {
        "low": made.estimate - half,
        "high": made.estimate + half,
        "p": alone(made),
        "p_adjusted": p_adjusted,
        "standard_error": made.standard_error,
        "df": made.df,
        "critical": critical,
        "detectable": smallest_detectable(made.standard_error, made.df, critical),
    }
