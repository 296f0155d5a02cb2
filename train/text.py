"""Numbers as text. Percent appears only in text; data are fractions."""

from __future__ import annotations

import math


def percent(fraction: float, digits: int = 1) -> str:
    """Format a fraction as percent: 0.8412 -> '84.1 %'."""
    return f"{100 * fraction:.{digits}f} %"


def number(value: float) -> str:
    """Format with four significant digits: 0.4321, 2.303, 1.2e-05; 'nan' and 'inf' unchanged."""
    return f"{value:.4g}" if not 0.001 <= abs(value) < 1000 else f"{value:#.4g}"


def duration(seconds: float) -> str:
    """Format seconds, rounded down: '0:42', '1:02:03', '2 d 3:04:05'."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def scaled(value: float) -> str:
    """Format with three significant digits and an SI prefix, ready for a unit: '12.3 M'."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "


def size(count_bytes: float) -> str:
    """Format a number of bytes: '812 MiB', '1.21 GiB'."""
    gib = count_bytes / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{count_bytes / 2**20:.0f} MiB"


def plural(count: int, what: str) -> str:
    """Format a count with its noun: '1 run', '2,000 runs'."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def binomial_standard_error(p: float, n: int) -> float:
    """Return sqrt(p (1 - p) / n), the standard error of an accuracy p measured on n examples.

    It does not include the spread between seeds.
    """
    return math.sqrt(p * (1 - p) / n)
