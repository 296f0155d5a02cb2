"""Rows of text as a table for a terminal, or for a program that reads lines."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from train.escape import line

_GAP = "  "
_NARROWEST = 14
"""Cells to which a column of text is cut before the lines become longer than the terminal."""


def table_text(heads: Sequence[str], rows: Sequence[Sequence[str]], cut: Sequence[str], width: int | None = None) -> str:
    """Return a table with one line a row. Columns that are empty in all rows are left out; numbers are to the right.

    `cut`: the heads of columns of text, which are cut where the lines would be longer than `width`; None for that of the
    terminal, and for no limit where the output is none.
    """
    cells = [[line(cell) for cell in row] for row in rows]
    kept = [place for place in range(len(heads)) if any(row[place] for row in cells)]
    heads, cells = [heads[place] for place in kept], [[row[place] for place in kept] for row in cells]
    widths = [max(cell_len(row[place]) for row in (heads, *cells)) for place in range(len(heads))]
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    if width is not None:
        widths = _narrowed(widths, [head in cut for head in heads], width - len(_GAP) * (len(heads) - 1))
    left = [not place or head in cut or not _are_numbers([row[place] for row in cells]) for place, head in enumerate(heads)]
    return "\n".join(_GAP.join(map(_padded, row, widths, left)).rstrip() for row in (heads, *cells))


def _narrowed(widths: Sequence[int], is_text: Sequence[bool], room: int) -> list[int]:
    """Return the widths of columns, of which the widest of text give way first."""
    widths = list(widths)
    while sum(widths) > room:
        widest = max((place for place, flag in enumerate(is_text) if flag), key=lambda place: widths[place], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        others = [widths[place] for place, flag in enumerate(is_text) if flag and place != widest]
        target = max([_NARROWEST, *(width for width in others if width < widths[widest])])
        widths[widest] = max(target, widths[widest] - max(1, sum(widths) - room))
    return widths


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(cell.lstrip("-")[:1].isdigit() for cell in cells if cell)


def _padded(cell: str, width: int, is_left: bool) -> str:
    if cell_len(cell) > width:
        end = cell[-(width // 2) :] if cell.isascii() else ""
        return f"{set_cell_size(cell, width - 1 - len(end))}…{end}"
    return cell + " " * (width - cell_len(cell)) if is_left else " " * (width - cell_len(cell)) + cell
