"""The style of all figures of a report. Importing this module imports matplotlib, without a window system."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from train.text import exact_percent

log = logging.getLogger("train")
Kind: TypeAlias = Literal["svg", "pdf", "pgf"]

WIDTH_IN = 4.4
"""Of a figure in inches: it is read on a telephone as it is, and two stand side by side on a screen."""
FONT = "DejaVu Sans"
"""Ships with matplotlib, so that figures are the same on every machine."""

BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, distinguishable with every kind of colour vision; without its yellow, which print loses."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY, FAINT = "0.35", "0.75"
ON_LIGHT, ON_DARK = "#010101", "#fefefe"
"""Text on the colours of data. It stays as it is where dark colours are preferred."""
_COMMANDS = set("\\{}$#&^~")
_DARK = {
    "#000000": "#e4e8ec",
    "#595959": "#a4aeb8",
    "#bfbfbf": "#4a535c",
    "#e6e6e6": "#2e353c",
    "#ededed": "#272d34",
    "#ffffff": "#16191d",
    "#0072b2": "#3f9fdb",
}
"""Colours of ink, lines and paper, and the one of the palette that a dark page hides: colour -> that on a dark page."""

_RC: Any = {
    "svg.hashsalt": "train-report",  # without it, ids inside the file are random
    "svg.fonttype": "path",
    "text.parse_math": False,  # keep dollar signs in names literal
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
    "pdf.fonttype": 42,
    "pgf.rcfonts": False,  # of the document, so that the figure looks like its text
}


@dataclass(frozen=True)
class ArmStyle:
    """The appearance of one arm, the same in all figures; `number` is its row in the table."""

    number: int
    label: str
    color: str
    marker: str
    dashes: Any
    is_baseline: bool

    def named(self, width: int = 34, lines: int = 1) -> str:
        return f"{self.number}  {wrapped(self.label, width, lines)}"


@dataclass(frozen=True)
class ReportFigure:
    """A figure and its texts. `name`: file name without suffix; `alt`: text alternative for screen readers."""

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes


@contextmanager
def style(width_in: float = WIDTH_IN, kind: Kind = "svg", tex: str = "xelatex") -> Iterator[None]:
    """Apply the report's matplotlib settings inside the block, whatever the user's matplotlibrc says.

    `kind`: what `rendered` returns; `tex`: the program that PGF takes.
    """
    with rc_context(_RC | {"figure.figsize": (width_in, width_in), "savefig.format": kind, "pgf.texsystem": tex}):
        yield


def width() -> float:
    """Return the width of figures in inches, as `style` was told."""
    return float(rcParams["figure.figsize"][0])


def arm_styles(arms: Sequence[tuple[str, str, bool]]) -> dict[str, ArmStyle]:
    """Return id -> style for (id, label, is_baseline) in the order of the table."""
    styles, others = {}, 0
    for number, (name, label, is_baseline) in enumerate(arms, start=1):
        if is_baseline:
            styles[name] = ArmStyle(number, label, BASELINE_COLOR, "o", "-", True)
            continue
        color, marker = COLORS[others % len(COLORS)], MARKERS[(others + 1) % len(MARKERS)]
        styles[name] = ArmStyle(number, label, color, marker, DASHES[(others + others // len(COLORS)) % len(DASHES)], False)
        others += 1
    return styles


def rendered(figure: Figure) -> bytes:
    """Return the figure as `style` says. Empty for what PGF cannot have: images, and text that LaTeX may obey."""
    kind = rcParams["savefig.format"]
    if kind not in ("pdf", "pgf"):
        return to_svg(figure)
    if kind == "pgf" and any(set(text.get_text()) & _COMMANDS for text in figure.findobj(Text)):
        return b""
    buffer = io.BytesIO()
    metadata: Any = {"metadata": {"CreationDate": None}} if kind == "pdf" else {}  # PGF has none
    try:
        figure.savefig(buffer, format=kind, **metadata)
    except (ValueError, RuntimeError) as error:
        log.info("no PGF of a figure: %s", error)
        return b""
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Return the figure as SVG, the same bytes for the same figure. Call inside `style()`.

    It has dark colours where the reader prefers them, as the page has.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue().replace(b"</style>", _dark_rules() + b"</style>", 1)


@lru_cache(maxsize=1)
def _dark_rules() -> bytes:
    rules = [f"svg{{fill:{_DARK[BASELINE_COLOR]}}}"]  # glyphs in black have no colour of their own
    for light, dark in _DARK.items():
        rules += [f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}' for kind in ("fill", "stroke")]
    return f"@media screen and (prefers-color-scheme:dark){{{''.join(rules)}}}".encode()


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as PNG. Call inside `style()`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def shortened(label: str, width: int) -> str:
    """Shorten `label` to `width` characters by leaving out words in the middle, its least telling part.

    A word is cut where there is no other way; missing glyphs become `?`.
    """
    drawn = _drawn(label)
    if len(drawn) <= width:
        return drawn
    most = (width - 1) * 2 // 3
    head = _last_end(drawn[:most]) or most
    rest = drawn[-(width - head) :]  # with the character before, which may separate
    tail = rest[_first_end(rest) or 1 :]
    last = drawn[_last_end(drawn) :]
    if not _first_end(rest) and len(last) <= width - _LEAST_HEAD - 1:
        tail, most = last, width - len(last) - 1
        head = _last_end(drawn[:most]) or most
    return f"{drawn[:head]}\u2026{tail}"


def wrapped(label: str, width: int, lines: int = 2) -> str:
    """Break `label` into at most `lines` lines of `width` characters, between settings or else between words."""
    rows, rest = [], _drawn(label)
    while len(rest) > width and len(rows) < lines - 1:
        end = rest.rfind(" ", 1, width + 1) if " " in rest[1 : width + 1] else _last_end(rest[:width]) or width
        rows.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return "\n".join([*rows, shortened(rest, width)])


def _drawn(label: str) -> str:
    return "".join(character if ord(character) in _glyphs() else "?" for character in " ".join(label.split()))


def _last_end(text: str) -> int:
    """Return the place after the last separator of words, 0 without one."""
    return max((found.end() for found in _SEPARATOR.finditer(text)), default=0)


def _first_end(text: str) -> int:
    """Return the place after the first separator of words, 0 without one."""
    found = _SEPARATOR.search(text)
    return found.end() if found else 0


_LEAST_HEAD = 4
"""Characters that are left of the beginning of a label so that its last word, a level, is whole."""
_SEPARATOR = re.compile("[ =,./_:-]")


@lru_cache(maxsize=1)
def _glyphs() -> Mapping[int, int]:
    return get_font(findfont(FONT)).get_charmap()


def in_percent(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda fraction, _: exact_percent(fraction)))


def numbers_between(low: float, high: float) -> list[float]:
    """Return round tick values for a log scale: powers of ten on a long scale, more values in between on a short one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 8))
    for factors in ([1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8], [1, 1.2, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]):
        ticks = [f * 10.0**power for power in range(first, last + 1, every) for f in factors]
        inside = [tick for tick in ticks if low <= tick * 1.0001 and tick <= high * 1.0001]
        if len(inside) >= 4:
            return inside
    return inside


def log_scale(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks, of which there are several within one decade, too."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # pyright: ignore[reportAttributeAccessIssue]
    ticks = numbers_between(*axis.get_view_interval())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def room(names: Sequence[str], points: float) -> float:
    """Return about how many inches the longest of these names takes in that size, with a tick beside it."""
    return 0.0088 * points * max(map(len, names), default=0) + 0.12


def tidy(axes: Axes, grid: str = "y") -> None:
    axes.grid(axis=grid, color="0.9", linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5, pad=2, labelsize=8)


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """Return the limits of an axis with a margin; never of width zero."""
    margin = (high - low) * share or abs(high) * 0.05 or 0.5
    return low - margin, high + margin
