"""How all figures of a report look. Importing it imports matplotlib, without a window system."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

WIDTH_IN = 9.0
FONT = "DejaVu Sans"
"""Comes with matplotlib, so that the figure is the same on every machine."""

BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, told apart with every kind of colour vision; without their yellow, which print loses."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY, FAINT = "0.35", "0.75"

_RC: Any = {
    "svg.hashsalt": "train-report",  # else the names inside the file are drawn at random
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.family": FONT,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class ArmStyle:
    """Of one arm, the same in all figures; `number` is its row in the table."""

    number: int
    label: str
    color: str
    marker: str
    dashes: Any
    is_baseline: bool

    def named(self, width: int = 34) -> str:
        return f"{self.number}  {shortened(self.label, width)}"


@dataclass(frozen=True)
class ReportFigure:
    """A figure and its words. `name`: of the file, without its ending; `alt` says what the picture shows to who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes


@contextmanager
def style() -> Iterator[None]:
    """Inside, figures are made our way whatever the user's matplotlibrc says."""
    with rc_context(_RC):
        yield


def arm_styles(arms: Sequence[tuple[str, str, bool]]) -> dict[str, ArmStyle]:
    """Id -> look, for (id, label, is the baseline) in the order of the table."""
    found, others = {}, 0
    for number, (name, label, is_baseline) in enumerate(arms, start=1):
        if is_baseline:
            found[name] = ArmStyle(number, label, BASELINE_COLOR, "o", "-", True)
            continue
        color, marker = COLORS[others % len(COLORS)], MARKERS[(others + 1) % len(MARKERS)]
        found[name] = ArmStyle(number, label, color, marker, DASHES[(others + others // len(COLORS)) % len(DASHES)], False)
        others += 1
    return found


def to_svg(figure: Figure) -> bytes:
    """As SVG, the same bytes for the same figure. Call inside `style()`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue()


def shortened(label: str, width: int) -> str:
    """At most `width` characters that the font has: the middle of a long name says least."""
    drawn = "".join(character if ord(character) in _glyphs() else "?" for character in " ".join(label.split()))
    if len(drawn) <= width:
        return drawn
    head = (width - 1) * 2 // 3
    return f"{drawn[:head]}\u2026{drawn[-(width - 1 - head) :]}"


def wrapped(label: str, width: int, lines: int = 2) -> str:
    """On several lines, broken between settings where possible."""
    parts = textwrap.wrap(shortened(label, width * lines), width, break_long_words=True, break_on_hyphens=False)
    return "\n".join(parts)


@lru_cache(maxsize=1)
def _glyphs() -> Mapping[int, int]:
    return get_font(findfont(FONT)).get_charmap()


def percent(fraction: float, _: int = 0) -> str:
    """Of a tick."""
    return f"{100 * fraction:g} %".replace("-", "\u2212")


def tidy(axes: Axes, grid: str = "y") -> None:
    axes.grid(axis=grid, color="0.9", linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5, pad=2, labelsize=8)


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """Limits of an axis with some room; never of width zero."""
    room = (high - low) * share or abs(high) * 0.05 or 0.5
    return low - room, high + room
