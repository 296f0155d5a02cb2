"""Format the numbers and times of a report. `None` and NaN become an en dash: unknown, not zero."""

from __future__ import annotations

import math
from collections.abc import Callable

from train.report.contracts import Effect, Rate
from train.report.metric import Metric
from train.report.sentence_text import decimals_for
from train.sinks.run_text import is_near_the_edge, wilson_interval
from train.text import MINUS, number, percent

UNKNOWN = "\u2013"
LEVEL = 0.05
"""Of significance: a p that rounds to it has more digits, which tell on which side it is."""


def value(metric: Metric, result: float | None, digits: int = 2) -> str:
    """Format a value of the metric: `71.65 %` for a share, otherwise the number."""
    if result is None or not math.isfinite(result):
        return UNKNOWN
    return percent(result, digits) if metric.is_share else number(result).replace("-", MINUS)


def bare(metric: Metric, result: float | None, digits: int = 2) -> str:
    """Format like `value`, without the unit, for columns whose heading has it."""
    return value(metric, result, digits).removesuffix(" %")


def uncertainty(metric: Metric, mean: float, sd: float, runs: int, images: int | None) -> str:
    """Return the standard error of a mean over runs, `± 0.35`, or Wilson's interval for the images where it would say too little.

    That is, where the runs do not differ, or hardly any images are right, or wrong. Empty for one run elsewhere.
    """
    if metric.is_share and images and 0 <= mean <= 1 and (sd == 0 or is_near_the_edge(mean, images)):
        low, high = wilson_interval(mean, images)
        return f"[{bare(metric, low)}, {bare(metric, high)}]"
    return f"± {bare(metric, sd / math.sqrt(runs))}" if math.isfinite(sd) else ""


def difference(metric: Metric, change: float | None, digits: int = 2) -> str:
    """Format a difference with its sign and without a unit; for a share in percentage points. What prints as 0 has no sign."""
    if change is None or not math.isfinite(change):
        return UNKNOWN
    text = f"{100 * change:+.{digits}f}" if metric.is_share else f"{change:+.4g}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def interval(metric: Metric, effect: Effect) -> str:
    """Format an interval: `[+0.35, +1.20]`; empty without one. An end near 0 has as many digits as it takes to tell it from 0."""
    if effect.low is None or effect.high is None:
        return ""
    digits = max(2, min(5, decimals_for(effect, metric))) if min(abs(effect.low), abs(effect.high)) < 0.5e-4 else 2
    return f"[{difference(metric, effect.low, digits)}, {difference(metric, effect.high, digits)}]"


def unit(metric: Metric) -> str:
    """Return the unit of differences."""
    return "percentage points" if metric.is_share else metric.name


def p_value(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return UNKNOWN
    if p < 0.0001:
        return "< 0.0001"
    if round(p, 3) == LEVEL:
        return f"{p:.5f}"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def rate(rate: Rate) -> str:
    """Format a rate: `1/5`; unknown without any result."""
    return f"{rate.count}/{rate.total}" if rate.total else UNKNOWN


def trained(rate: Rate) -> str:
    """Format a rate of training: `2 of 3`; unknown without any result."""
    return f"{rate.count} of {rate.total}" if rate.total else UNKNOWN


def rate_interval(rate: Rate) -> str:
    return f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}] %" if rate.total else ""


def known(form: Callable[[float], str], measured: float) -> str:
    """Format a measured value with a function of `train.text`."""
    return form(measured).strip() if math.isfinite(measured) else UNKNOWN
