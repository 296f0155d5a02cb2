"""Differences within two recipes, side by side: two intervals a row. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import COLORS, FAINT, GREY, MARKERS, finite, padded, style, tidy, to_svg, wrapped

Ends = tuple[float, float, float]
"""A difference and the ends of its interval, NaN where unknown."""
_WIDTH_IN, _ROW_IN, _SHIFT = 7.2, 0.36, 0.17


@dataclass(frozen=True)
class PairedRow:
    """A change: its difference in each of the two recipes, and the label at the right."""

    label: str
    differences: tuple[Ends, Ends]
    detail: str


def draw_pairs(rows: Sequence[PairedRow], names: tuple[str, str], axis: str, smallest_effect: float | None) -> bytes:
    """Return an SVG of the rows from top to bottom.

    A filled marker means that the interval excludes zero. The range within `smallest_effect` of zero is shaded.
    """
    with style():
        figure = Figure(figsize=(_WIDTH_IN, 1.2 + _ROW_IN * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        if smallest_effect:
            axes.axvspan(-smallest_effect, smallest_effect, color="0.93", zorder=0)
        axes.axvline(0, color=GREY, linewidth=1)
        for side, name in enumerate(names):
            for index, row in enumerate(rows):
                _draw(axes, index + (side - 0.5) * 2 * _SHIFT, row.differences[side], side)
            axes.plot([], [], MARKERS[side], color=COLORS[side], linestyle="-", label=wrapped(name, 80, 2))
        ends = [0.0, *finite([end for row in rows for ends in row.differences for end in ends])]
        axes.set_xlim(*padded(min(ends), max(ends)))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [wrapped(row.label, 32, 2) for row in rows], fontsize=8)
        details = axes.secondary_yaxis("right")
        details.set_yticks(range(len(rows)), [row.detail for row in rows])
        details.tick_params(length=0, labelsize=8, labelcolor=GREY)
        details.spines["right"].set_visible(False)
        axes.set_xlabel("\n".join(wrap(axis, 60)))
        tidy(axes, "x")
        axes.spines["left"].set_color(FAINT)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", handlelength=1.6)
        return to_svg(figure)


def _draw(axes: Axes, place: float, ends: Ends, side: int) -> None:
    value, low, high = ends
    color = COLORS[side]
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    is_clear = math.isfinite(low) and (low > 0 or high < 0)
    axes.plot([value], [place], MARKERS[side], color=color, markerfacecolor=color if is_clear else "white", markersize=5.5)
