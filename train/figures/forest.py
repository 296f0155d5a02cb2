"""The forest plot: differences to the baseline with their intervals, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from train.figures.intervals import draw_interval, figure_of_rows, label_rows
from train.figures.style import GREY, ArmStyle, finite, padded, rendered


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
    figure, axes = figure_of_rows(rows)
    if smallest_effect:
        axes.axvspan(-smallest_effect, smallest_effect, color="0.93", zorder=0)
    axes.axvline(0, color=GREY, linewidth=1)
    for index, row in enumerate(rows):
        has_interval = math.isfinite(row.low) and math.isfinite(row.high)
        if has_interval:
            draw_interval(axes, index, row)
        excludes_zero = has_interval and (row.low > 0 or row.high < 0)
        fill = row.style.color if excludes_zero else "white"
        axes.plot([row.difference], [index], row.style.marker, color=row.style.color, markerfacecolor=fill, markersize=6.5)
    ends = [0.0, *finite([end for row in rows for end in (row.low, row.high, row.difference)])]
    axes.set_xlim(*padded(min(ends), max(ends)))
    label_rows(axes, rows, axis)
    return rendered(figure)
