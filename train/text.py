"""Numbers and counts as text. Percent appears only in text; data are fractions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MINUS = "\N{MINUS SIGN}"


def percent(fraction: float, digits: int = 1) -> str:
    """Format a fraction as percent: 0.8412 -> '84.1 %'."""
    return f"{100 * fraction:.{digits}f} %"


def short_percent(fraction: float) -> str:
    """Format a fraction as percent with at most three significant digits: '95 %', '33.3 %', '0.27 %'."""
    return f"{100 * fraction:.3g} %"


def exact_percent(fraction: float) -> str:
    """Format a round fraction, such as a limit or a tick, with as many digits as it has: '50 %', '12.25 %'."""
    return f"{100 * fraction:g} %".replace("-", MINUS)


def bounded_percent(fraction: float) -> str:
    """Format a share in whole percent; shares other than 0 and 1 are never rounded to 0 % or 100 %: '<1 %', '>99 %'."""
    value = 100 * fraction
    return "<1 %" if 0 < value < 1 else ">99 %" if 99 < value < 100 else f"{value:.0f} %"


def number(value: float) -> str:
    """Format with four significant digits: 0.4321, 2.303, 1.2e-05; 'nan' and 'inf' unchanged."""
    return f"{value:.4g}" if not 0.001 <= abs(value) < 1000 else f"{value:#.4g}"


def three_digits(value: float) -> str:
    """Format with three significant digits, very small and large values with two: 0.830, 1.5e-04; 0 is '0'."""
    return f"{value:#.3g}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}" if value else "0"


def two_digits(value: float) -> str:
    """Format a value with two significant digits: 0.49, 12, 3e-05."""
    return f"{value:.2g}"


def short_number(value: float) -> str:
    """Format a round number, such as a tick: 0, 0.02, 500, 1e4, 2e-5."""
    if value == 0 or 1e-3 <= value < 1e4:
        return f"{value:g}"
    return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def factor(value: float) -> str:
    """Format a factor: 'x0.97', 'x2e+02'."""
    return f"x{value:.2f}" if 0.005 <= value < 100 or not value else f"x{value:.0e}"


def setting(value: float) -> str:
    """Format a setting such as a learning rate or a budget; whole numbers from 1,000 get separators."""
    return f"{value:,.0f}" if math.isfinite(value) and value == round(value) and abs(value) >= 1000 else f"{value:g}"


def settings(values: Iterable[float]) -> str:
    """Format several settings: '0.1, 0.2 and 0.4'."""
    return listed([setting(value) for value in values])


def duration(seconds: float) -> str:
    """Format seconds, rounded down: '0:42', '1:02:03', '2 d 3:04:05'."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def exact_duration(seconds: float) -> str:
    """Format seconds; below two minutes with one decimal: '12.5 s', '1:02:03'."""
    return f"{seconds:.1f} s" if seconds < 120 else duration(seconds)


def rough_duration(seconds: float) -> str:
    """Format seconds as '45 s', '12 min' or '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


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


def listed(words: Sequence[str]) -> str:
    """Join words: 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
