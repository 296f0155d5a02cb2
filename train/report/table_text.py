"""Format the numbers and times of a report. `None` and NaN become an en dash: unknown, not zero."""

from __future__ import annotations

import math

from train import text as number_text
from train.report.contracts import Effect, Rate
from train.report.metric import Metric

UNKNOWN = "\u2013"
MINUS = "\u2212"


def value(metric: Metric, number: float | None, digits: int = 2) -> str:
    """Format a value of the metric: `71.65 %` for a share, otherwise the number."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    return number_text.percent(number, digits) if metric.is_share else number_text.number(number).replace("-", MINUS)


def bare(metric: Metric, number: float | None, digits: int = 2) -> str:
    """Format like `value`, without the unit, for columns whose heading has it."""
    return value(metric, number, digits).removesuffix(" %")


def difference(metric: Metric, number: float | None) -> str:
    """Format a difference with its sign and without a unit; for a share in percentage points."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    text = f"{100 * number:+.2f}" if metric.is_share else f"{number:+.4g}"
    return text.replace("-", MINUS)


def interval(metric: Metric, effect: Effect) -> str:
    """Format an interval: `[+0.35, +1.20]`; empty without one."""
    if effect.low is None or effect.high is None:
        return ""
    return f"[{difference(metric, effect.low)}, {difference(metric, effect.high)}]"


def unit(metric: Metric) -> str:
    """Return the unit of differences."""
    return "percentage points" if metric.is_share else metric.name


def p_value(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return UNKNOWN
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def rate(rate: Rate) -> str:
    """Format a rate: `1/5`; unknown without any result."""
    return f"{rate.count}/{rate.total}" if rate.total else UNKNOWN


def rate_interval(rate: Rate) -> str:
    return f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}] %" if rate.total else ""


def duration(seconds: float) -> str:
    """Format a duration; below two minutes in seconds with one decimal."""
    if not math.isfinite(seconds):
        return UNKNOWN
    return f"{seconds:.1f} s" if seconds < 120 else number_text.duration(seconds)


def count(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else UNKNOWN


def scaled(number: float) -> str:
    return number_text.scaled(number).strip() if math.isfinite(number) else UNKNOWN


def size(count_bytes: float) -> str:
    return number_text.size(count_bytes) if math.isfinite(count_bytes) else UNKNOWN
