"""Format numbers for sentences: percentage points for shares, and no more digits than the interval supports."""

from __future__ import annotations

from math import ceil, floor, log10

from train.report.contracts import Effect, MetricInfo, Rate
from train.text import MINUS, plural, short_percent

MOST_DECIMALS = 5


def points(metric: MetricInfo) -> str:
    """Return the unit of differences, with a leading space; empty unless the metric is a share."""
    return " percentage points" if metric.is_share else ""


def decimals_for(effect: Effect, metric: MetricInfo) -> int:
    """Return the decimals for two digits of the interval's half width, and more where an end near 0 would print as 0."""
    scale = 100 if metric.is_share else 1
    if effect.low is None or effect.high is None:
        return 2 if metric.is_share else 4
    half = (effect.high - effect.low) / 2 * scale
    nearest = min(abs(effect.low), abs(effect.high)) * scale
    needed = _first_digit(half) + 1
    return min(MOST_DECIMALS, max(0, needed, _first_digit(nearest) if nearest > 0 else 0))


def _first_digit(value: float) -> int:
    """Return the decimal position of the first digit of `value`: 0.034 -> 2, 12 -> -1."""
    return -floor(log10(value)) if value > 0 else 0


def signed(value: float, metric: MetricInfo, decimals: int) -> str:
    """Format with a sign; 0 has none."""
    text = plain(abs(value), metric, decimals)
    sign = "" if float(text) == 0 else "+" if value > 0 else MINUS
    return sign + text


def plain(value: float, metric: MetricInfo, decimals: int) -> str:
    return f"{value * (100 if metric.is_share else 1):.{decimals}f}"


def at_least(value: float, metric: MetricInfo, decimals: int) -> str:
    """Format `value` rounded up, so that printing never tightens a bound."""
    scaled = value * (100 if metric.is_share else 1) * 10**decimals
    return f"{ceil(scaled - 1e-9) / 10**decimals:.{decimals}f}"


def interval(effect: Effect, metric: MetricInfo, decimals: int, confidence: float) -> str:
    """Return the interval, such as `95 % CI +1.1 to +5.3`."""
    if effect.low is None or effect.high is None:
        return "no interval"
    low, high = signed(effect.low, metric, decimals), signed(effect.high, metric, decimals)
    return f"{short_percent(confidence)} CI {low} to {high}"


def rate(rate: Rate) -> str:
    """Format a rate: `3 of 5 runs (60 %, 95 % CI 23 to 88)`."""
    if rate.total == 0:
        return "0 of 0 runs"
    interval_text = f"95 % CI {100 * rate.low:.0f} to {100 * rate.high:.0f}"
    return f"{rate.count} of {plural(rate.total, 'run')} ({short_percent(rate.count / rate.total)}, {interval_text})"
