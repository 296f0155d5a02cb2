"""The table of layers at step 0 as lines of text that fit a terminal of any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from train.config import ThresholdSettings
from train.explain.verdict import LayerRow
from train.text import bounded_percent, factor, three_digits

Tone = Literal["head", "normal", "bad", "note"]
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BARS = (24, 16, 10)
_DROPPED = ((), ("gradient bar",), ("gradient bar", "saturated", "dead"), ("gradient bar", "saturated", "dead", "ratio", "bar"))
"""Columns dropped on narrow terminals, step by step; at each step, bars are shortened first."""
_SHORTEST_NAME = 8
_GAP = "  "


@dataclass(frozen=True)
class TextLine:
    """A line of the table. `text` has no line break; `tone` lets a terminal choose a colour."""

    text: str
    tone: Tone = "normal"


@dataclass(frozen=True)
class _Column:
    """A column of the table. `title` and `cell` get the length of the bars."""

    key: str
    title: Callable[[int], str]
    cell: Callable[[LayerRow, int], str]
    left: bool = False


def render_table(
    rows: Sequence[LayerRow],
    width: int,
    thresholds: ThresholdSettings,
    unicode: bool = True,
    most: int = 24,
) -> list[TextLine]:
    """Return the table in at most `width` columns and with about `most` layers.

    A longer network is thinned to the first, the last, every k-th layer between and the first non-finite one; a note reports how
    many are omitted. `unicode` False draws with ASCII only.
    """
    if not rows:
        return []
    kept, every = thin_rows(rows, most)
    heading, *body = _fitted(_columns(rows, unicode), kept, width, "…" if unicode else "~")
    lines = [TextLine(heading, "head")]
    lines += [TextLine(text, "bad" if _bad(row, thresholds) else "normal") for row, text in zip(kept, body, strict=True)]
    if len(kept) < len(rows):
        note = f"{len(rows) - len(kept)} of {len(rows)} layers omitted: one weighted layer in {every} is shown"
        lines.append(TextLine(note[:width], "note"))
    return lines


def thin_rows(rows: Sequence[LayerRow], most: int) -> tuple[list[LayerRow], int]:
    """Return at most about `most` rows, and k: one in k weighted layers is kept, each with the activations that follow it."""
    units: list[list[LayerRow]] = []
    for row in rows:
        if row.weighted or not units:
            units.append([])
        units[-1].append(row)
    every = 1
    while sum(map(len, _select_units(units, every))) > most and every < len(units):
        every += 1
    return [row for unit in _select_units(units, every) for row in unit], every


def _select_units(units: Sequence[list[LayerRow]], every: int) -> list[list[LayerRow]]:
    broken = next((i for i, unit in enumerate(units) if any(row.broken for row in unit)), 0)
    return [unit for i, unit in enumerate(units) if i % every == 0 or i in (broken, len(units) - 1)]


def _bad(row: LayerRow, thresholds: ThresholdSettings) -> bool:
    return row.broken or (row.dead or 0) >= thresholds.dead or (row.saturated or 0) >= thresholds.saturated or row.std == 0


def _columns(rows: Sequence[LayerRow], unicode: bool) -> list[_Column]:
    """Return the columns that have a value for any of these rows."""
    std, gradient = _Scale((row.std for row in rows), unicode), _Scale((row.gradient_std for row in rows), unicode)
    columns = [
        _Column("layer", lambda _: "layer", lambda row, _: row.layer, left=True),
        _Column("bar", std.title, lambda row, size: std.bar(row.std, size), left=True),
        _Column("std", lambda _: "std", lambda row, _: _cell(three_digits, row.std)),
        _Column("ratio", lambda _: "ratio", lambda row, _: _cell(factor, row.ratio)),
        _Column("dead", lambda _: "dead", lambda row, _: _cell(bounded_percent, row.dead)),
        _Column("saturated", lambda _: "satur.", lambda row, _: _cell(bounded_percent, row.saturated)),
        _Column("gradient bar", gradient.title, lambda row, size: gradient.bar(row.gradient_std, size), left=True),
        _Column("gradient", lambda _: "grad std", lambda row, _: _cell(three_digits, row.gradient_std)),
    ]
    return [column for column in columns if any(column.cell(row, _BARS[0]).strip() for row in rows)]


def _fitted(columns: Sequence[_Column], rows: Sequence[LayerRow], width: int, ellipsis: str) -> list[str]:
    """Return heading and body in the richest layout that fits.

    If even the poorest does not fit, the beginnings of names are cut, then the ends of lines.
    """
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
    longest = max(_SHORTEST_NAME, max(map(len, names)) - (max(map(len, lines)) - width))
    names = [name if len(name) <= longest else ellipsis + name[1 - longest :] for name in names]
    return [line[:width] for line in _joined([names, *rest], [column.left for column in poorest])]


def _joined(columns: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    sizes = [max(map(len, column)) for column in columns]
    justified = [
        [cell.ljust(size) if to_left else cell.rjust(size) for cell in column]
        for column, size, to_left in zip(columns, sizes, left, strict=True)
    ]
    return [_GAP.join(line).rstrip() for line in zip(*justified, strict=True)]


class _Scale:
    """A log axis over whole decades that covers all finite values above 0."""

    def __init__(self, values: Iterable[float | None], unicode: bool) -> None:
        logs = [math.log10(value) for value in values if value is not None and math.isfinite(value) and value > 0]
        self.low = math.floor(min(logs, default=0))
        self.high = max(math.ceil(max(logs, default=0)), self.low + 1)
        self.unicode = unicode

    def title(self, size: int) -> str:
        """Return the values at both ends of the axis, `size` characters apart."""
        low, high = f"{10.0**self.low:g}", f"{10.0**self.high:g}"
        return f"{low}{high:>{size - len(low)}}"

    def bar(self, value: float | None, size: int) -> str:
        """Return a bar, full at the top of the axis; a thin mark if the bar would be too short to be visible."""
        if value is None or not math.isfinite(value):
            return ""
        share = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        if not self.unicode:
            return "#" * round(share * size) or "|"
        full, eighth = divmod(round(share * size * 8), 8)
        return (_EIGHTHS[8] * full + _EIGHTHS[eighth]).rstrip() or _EIGHTHS[1]


def _cell(form: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else form(value)
