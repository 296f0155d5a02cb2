"""Format numbers for sentences: percentage points for shares, and no more digits than the interval supports."""

from __future__ import annotations

from math import ceil, floor, isclose, log10

from train.report.contracts import Effect, MetricInfo, Rate
from train.text import MINUS, plural, short_percent

MOST_DECIMALS, MOST_OF_OTHERS = 5, 9
"""Of percentage points, and of metrics with a unit of their own, which may be as small as the loss of a perfect fit."""


def points(metric: MetricInfo) -> str:
    """Return the unit of differences, with a leading space; empty unless the metric is a share."""
    return " percentage points" if metric.is_share else ""


def decimals_for(effect: Effect, metric: MetricInfo, limit: float = 0.0) -> int:
    """Return the decimals for two digits of the interval's half width.

    More where an end near 0, or the difference, would print as 0, or an end near `limit` as if it was on its other side.
    """
    most = MOST_DECIMALS if metric.is_share else MOST_OF_OTHERS
    if effect.low is None or effect.high is None:
        return 2 if metric.is_share else 4
    scale = 100 if metric.is_share else 1
    half, ends = (effect.high - effect.low) / 2 * scale, [abs(effect.low) * scale, abs(effect.high) * scale]
    difference = min(_first_digit(abs(effect.difference) * scale), 2 if metric.is_share else most)
    needed = max(0, _first_digit(half) + 1, _first_digit(min(ends)), difference)
    while needed < most and not all(_keeps_its_side(end, limit * scale, needed) for end in ends):
        needed += 1
    return min(most, needed)


def _keeps_its_side(value: float, limit: float, decimals: int) -> bool:
    """Return whether `value` is on the same side of `limit` when it is printed."""
    printed = float(f"{value:.{decimals}f}")
    return isclose(value, limit) or ((printed > limit), (printed < limit)) == ((value > limit), (value < limit))


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


def exact(value: float, metric: MetricInfo) -> str:
    """Format a setting such as a limit, with all its digits but at least two decimals, or four of a metric with its own unit."""
    scaled, decimals = value * (100 if metric.is_share else 1), 2 if metric.is_share else 4
    text = f"{scaled:.{decimals}f}"
    return text if isclose(float(text), scaled) else f"{scaled:.6g}"


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
