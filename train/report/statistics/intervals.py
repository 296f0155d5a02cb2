"""Simultaneous intervals: from a contrast and its standard error to the numbers of an `Effect`."""

from __future__ import annotations

from math import expm1, log1p
from typing import Any

from train.report.statistics.moments import Contrast
from train.report.statistics.power import sidak_quantile, smallest_detectable
from train.report.statistics.student import two_sided_p


def sidak(difference: Contrast, count: int, confidence: float) -> dict[str, Any]:
    """Return the numbers of one of `count` simultaneous intervals by Sidak's inequality (1967, JASA 62).

    The inequality holds for any correlation.
    """
    critical = sidak_quantile(difference.df, count, confidence)
    p = _unadjusted_p(difference)
    return effect_numbers(difference, critical, 1.0 if p >= 1 else -expm1(count * log1p(-p)))


def effect_numbers(difference: Contrast, critical: float, p_adjusted: float) -> dict[str, Any]:
    """Return the fields of an `Effect` for an interval of half width `critical` standard errors."""
    half = critical * difference.standard_error
    return {
        "low": difference.estimate - half,
        "high": difference.estimate + half,
        "p": _unadjusted_p(difference),
        "p_adjusted": p_adjusted,
        "standard_error": difference.standard_error,
        "df": difference.df,
        "critical": critical,
        "detectable": smallest_detectable(difference.standard_error, difference.df, critical),
    }


def _unadjusted_p(difference: Contrast) -> float:
    """Return the unadjusted two-sided p value of the contrast."""
    return two_sided_p(difference.estimate / difference.standard_error, difference.df)
