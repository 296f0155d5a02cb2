"""Numbers as people read them. Percent exists only here and below: data are fractions."""

from __future__ import annotations

import math


def percent(fraction: float, digits: int = 1) -> str:
    """0.8412 -> '84.1 %'."""
    return f"{100 * fraction:.{digits}f} %"


def number(value: float) -> str:
    """Four significant digits: 0.4321, 2.303, 1.2e-05; 'nan' and 'inf' as such."""
    return f"{value:.4g}" if not 0.001 <= abs(value) < 1000 else f"{value:#.4g}"


def duration(seconds: float) -> str:
    """'0:42', '1:02:03', '2 d 3:04:05'; rounded down."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def scaled(value: float) -> str:
    """With an SI prefix, three significant digits: '12.3 M'; a unit can follow."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "


def size(count_bytes: float) -> str:
    """'812 MiB', '1.21 GiB'."""
    gib = count_bytes / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{count_bytes / 2**20:.0f} MiB"


def plural(count: int, what: str) -> str:
    """'1 run', '2,000 runs'."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def binomial_standard_error(p: float, n: int) -> float:
    """sqrt(p (1 - p) / n): how far an accuracy measured on n examples is from that on endlessly many, in standard
    deviations of one. It says nothing about the spread between seeds."""
    return math.sqrt(p * (1 - p) / n)
