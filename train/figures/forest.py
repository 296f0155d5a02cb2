"""The forest plot: differences to the baseline with their intervals, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from train.figures.style import FAINT, GREY, WIDTH_IN, ArmStyle, finite, padded, tidy, to_svg


@dataclass(frozen=True)
class ForestRow:
    """One arm. `difference` and the ends of its interval are in the unit of the axis, NaN if unknown; `detail`: right label."""

    style: ArmStyle
    difference: float
    low: float
    high: float
    detail: str


def draw_forest(rows: Sequence[ForestRow], axis: str, smallest_effect: float | None) -> bytes:
    """Draw the rows from top to bottom.

    A filled marker means that the interval excludes zero. The range within `smallest_effect` of zero is shaded.
    """
    height = 0.85 + 0.27 * len(rows)
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    axes = figure.add_subplot()
    if smallest_effect:
        axes.axvspan(-smallest_effect, smallest_effect, color="0.93", zorder=0)
    axes.axvline(0, color=GREY, linewidth=1)
    for index, row in enumerate(rows):
        has_interval = math.isfinite(row.low) and math.isfinite(row.high)
        if has_interval:
            axes.plot([row.low, row.high], [index, index], color=row.style.color, linewidth=1.8, solid_capstyle="butt")
            axes.plot([row.low, row.high], [index, index], "|", color=row.style.color, markersize=7)
        excludes_zero = has_interval and (row.low > 0 or row.high < 0)
        fill = row.style.color if excludes_zero else "white"
        axes.plot([row.difference], [index], row.style.marker, color=row.style.color, markerfacecolor=fill, markersize=6.5)
    ends = [0.0, *finite([end for row in rows for end in (row.low, row.high, row.difference)])]
    axes.set_xlim(*padded(min(ends), max(ends)))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.style.named(46) for row in rows])
    details = axes.secondary_yaxis("right")
    details.set_yticks(range(len(rows)), [row.detail for row in rows])
    details.tick_params(length=0, labelsize=8, labelcolor=GREY)
    details.spines["right"].set_visible(False)
    axes.set_xlabel(axis)
    tidy(axes, "x")
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(axis="y", length=0)
    return to_svg(figure)
