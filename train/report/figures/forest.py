"""Differences to the baseline with their intervals, one row an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from train.report.figures.style import FAINT, GREY, WIDTH_IN, ArmStyle, finite, padded, tidy, to_svg


@dataclass(frozen=True)
class ForestRow:
    """`difference` and the ends of its interval in the unit of the axis; NaN where not known. `detail`: at the right."""

    look: ArmStyle
    difference: float
    low: float
    high: float
    detail: str


def draw_forest(rows: Sequence[ForestRow], axis: str, smallest_effect: float | None) -> bytes:
    """Rows from top to bottom. An interval that excludes zero has a filled marker; `smallest_effect` is shaded."""
    height = 0.85 + 0.27 * len(rows)
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    axes = figure.add_subplot()
    if smallest_effect:
        axes.axvspan(-smallest_effect, smallest_effect, color="0.93", zorder=0)
    axes.axvline(0, color=GREY, linewidth=1)
    for place, row in enumerate(rows):
        known = math.isfinite(row.low) and math.isfinite(row.high)
        if known:
            axes.plot([row.low, row.high], [place, place], color=row.look.color, linewidth=1.8, solid_capstyle="butt")
            axes.plot([row.low, row.high], [place, place], "|", color=row.look.color, markersize=7)
        clear = known and (row.low > 0 or row.high < 0)
        fill = row.look.color if clear else "white"
        axes.plot([row.difference], [place], row.look.marker, color=row.look.color, markerfacecolor=fill, markersize=6.5)
    ends = [0.0, *finite([end for row in rows for end in (row.low, row.high, row.difference)])]
    axes.set_xlim(*padded(min(ends), max(ends)))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.look.named(46) for row in rows])
    details = axes.secondary_yaxis("right")
    details.set_yticks(range(len(rows)), [row.detail for row in rows])
    details.tick_params(length=0, labelsize=8, labelcolor=GREY)
    details.spines["right"].set_visible(False)
    axes.set_xlabel(axis)
    tidy(axes, "x")
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(axis="y", length=0)
    return to_svg(figure)
