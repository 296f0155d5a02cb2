"""The table of layers at step 0 as lines of text, for a terminal of any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from train.observe.verdict import DEFAULT, LayerRow, Thresholds

Tone = Literal["head", "normal", "bad", "note"]
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BARS = (24, 16, 10)
_DROPPED = ((), ("gradient bar",), ("gradient bar", "saturated", "dead"), ("gradient bar", "saturated", "dead", "ratio", "bar"))
"""What a narrow terminal does without, step by step; at each step bars are made shorter first."""
_SHORTEST_NAME = 8
_GAP = "  "


@dataclass(frozen=True)
class TextLine:
    """`text` without line break; `tone` says what a terminal with colours may do about it."""

    text: str
    tone: Tone = "normal"


@dataclass(frozen=True)
class _Column:
    """`title` and `cell` get the length that bars have."""

    key: str
    title: Callable[[int], str]
    cell: Callable[[LayerRow, int], str]
    left: bool = False


def render_table(
    rows: Sequence[LayerRow],
    width: int,
    unicode: bool = True,
    most: int = 24,
    thresholds: Thresholds = DEFAULT,
) -> list[TextLine]:
    """At most `width` columns, and about `most` layers: of a longer net the first, the last, every k-th between them and
    the first that is not finite, with a note that says how many are left out. `unicode` False draws with ASCII alone."""
    if not rows:
        return []
    shown, every = thin_rows(rows, most)
    heading, *body = _fitted(_columns(rows, unicode), shown, width, "…" if unicode else "~")
    lines = [TextLine(heading, "head")]
    lines += [TextLine(text, "bad" if _bad(row, thresholds) else "normal") for row, text in zip(shown, body, strict=True)]
    if len(shown) < len(rows):
        note = f"{len(rows) - len(shown)} of {len(rows)} layers left out: one weighted layer in {every} is shown"
        lines.append(TextLine(note[:width], "note"))
    return lines


def thin_rows(rows: Sequence[LayerRow], most: int) -> tuple[list[LayerRow], int]:
    """Some of the rows, and k where one in k weighted layers was kept, each with the activations that follow it."""
    units: list[list[LayerRow]] = []
    for row in rows:
        if row.weighted or not units:
            units.append([])
        units[-1].append(row)
    every = 1
    while sum(map(len, _kept(units, every))) > most and every < len(units):
        every += 1
    return [row for unit in _kept(units, every) for row in unit], every


def _kept(units: Sequence[list[LayerRow]], every: int) -> list[list[LayerRow]]:
    broken = next((i for i, unit in enumerate(units) if any(row.broken for row in unit)), 0)
    return [unit for i, unit in enumerate(units) if i % every == 0 or i in (broken, len(units) - 1)]


def _bad(row: LayerRow, thresholds: Thresholds) -> bool:
    return row.broken or (row.dead or 0) >= thresholds.dead or (row.saturated or 0) >= thresholds.saturated or row.std == 0


def _columns(rows: Sequence[LayerRow], unicode: bool) -> list[_Column]:
    """Those that have something to say about these rows."""
    std, gradient = _Scale((row.std for row in rows), unicode), _Scale((row.gradient_std for row in rows), unicode)
    columns = [
        _Column("layer", lambda _: "layer", lambda row, _: row.layer, left=True),
        _Column("bar", std.title, lambda row, size: std.bar(row.std, size), left=True),
        _Column("std", lambda _: "std", lambda row, _: _number(row.std)),
        _Column("ratio", lambda _: "ratio", lambda row, _: _ratio(row.ratio)),
        _Column("dead", lambda _: "dead", lambda row, _: _share(row.dead)),
        _Column("saturated", lambda _: "satur.", lambda row, _: _share(row.saturated)),
        _Column("gradient bar", gradient.title, lambda row, size: gradient.bar(row.gradient_std, size), left=True),
        _Column("gradient", lambda _: "grad std", lambda row, _: _number(row.gradient_std)),
    ]
    return [column for column in columns if any(column.cell(row, _BARS[0]).strip() for row in rows)]


def _fitted(columns: Sequence[_Column], rows: Sequence[LayerRow], width: int, ellipsis: str) -> list[str]:
    """Heading and body in the richest layout that fits; in the poorest, names lose their beginning, lines at last their end."""
    lines: list[str] = []
    for dropped in _DROPPED:
        kept = [column for column in columns if column.key not in dropped]
        for bar in _BARS:
            cells = [[column.title(bar), *(column.cell(row, bar) for row in rows)] for column in kept]
            lines = _joined(cells, [column.left for column in kept])
            if max(map(len, lines)) <= width:
                return lines
    poorest = [column for column in columns if column.key not in _DROPPED[-1]]
    names, *rest = [[column.title(0), *(column.cell(row, 0) for row in rows)] for column in poorest]
    room = max(_SHORTEST_NAME, max(map(len, names)) - (max(map(len, lines)) - width))
    names = [name if len(name) <= room else ellipsis + name[1 - room :] for name in names]
    return [line[:width] for line in _joined([names, *rest], [column.left for column in poorest])]


def _joined(columns: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    sizes = [max(map(len, column)) for column in columns]
    justified = [
        [cell.ljust(size) if to_left else cell.rjust(size) for cell in column]
        for column, size, to_left in zip(columns, sizes, left, strict=True)
    ]
    return [_GAP.join(line).rstrip() for line in zip(*justified, strict=True)]


class _Scale:
    """A log axis over whole decades that holds all the values that are finite and above 0."""

    def __init__(self, values: Iterable[float | None], unicode: bool) -> None:
        logs = [math.log10(value) for value in values if value is not None and math.isfinite(value) and value > 0]
        self.low = math.floor(min(logs, default=0))
        self.high = max(math.ceil(max(logs, default=0)), self.low + 1)
        self.unicode = unicode

    def title(self, size: int) -> str:
        """The values at both ends of the axis."""
        low, high = f"{10.0**self.low:g}", f"{10.0**self.high:g}"
        return f"{low}{high:>{size - len(low)}}"

    def bar(self, value: float | None, size: int) -> str:
        """Full where the value is at the top of the axis; a mark where it is there and the bar too short to be seen."""
        if value is None or not math.isfinite(value):
            return ""
        share = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        if not self.unicode:
            return "#" * round(share * size) or "|"
        whole, eighth = divmod(round(share * size * 8), 8)
        return (_EIGHTHS[8] * whole + _EIGHTHS[eighth]).rstrip() or _EIGHTHS[1]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:#.3g}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}" if value else "0"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"x{value:.2f}" if 0.005 <= value < 100 or not value else f"x{value:.0e}"


def _share(value: float | None) -> str:
    """Percent; what is not quite none or all is not rounded to it."""
    if value is None:
        return ""
    percent = 100 * value
    return "<1 %" if 0 < percent < 1 else ">99 %" if 99 < percent < 100 else f"{percent:.0f} %"
