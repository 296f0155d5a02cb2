"""Where the spread between runs comes from: shares of the variance, and the spread that each role makes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import BASELINE_COLOR, COLORS, GREY, WIDTH_IN, in_percent, padded, shortened, tidy, to_svg


@dataclass(frozen=True)
class SpreadRow:
    """A role, the rest, or all roles: (value, low, high) of its share of the variance and of a standard deviation, NaN if
    unknown. `is_all`: all roles vary."""

    label: str
    share: tuple[float, float, float]
    sd: tuple[float, float, float]
    is_all: bool = False


def draw_spread(rows: Sequence[SpreadRow], axis: str) -> bytes:
    """Draw the rows from top to bottom, shares at the left, standard deviations at the right. `axis`: the name of the latter."""
    figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.3 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(rows):
        color = BASELINE_COLOR if row.is_all else COLORS[0]
        _interval(left, place, row.share, color)
        _interval(right, place, row.sd, color)
    left.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    left.set_xlim(-0.02, 1.02)
    in_percent(left.xaxis)
    left.set_xlabel("share of the variance")
    ends = [end for row in rows for end in row.sd if math.isfinite(end)]
    right.set_xlim(0, padded(0, max(ends, default=1.0))[1])
    right.set_xlabel(axis)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_yticks(range(len(rows)), [shortened(row.label, 46) for row in rows])
    for axes in (left, right):
        tidy(axes, "x")
        axes.tick_params(axis="y", length=0)
    return to_svg(figure)


def _interval(axes: Axes, place: int, found: tuple[float, float, float], color: str) -> None:
    value, low, high = found
    if math.isfinite(value):
        axes.plot([low, high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
        axes.plot([low, high], [place, place], "|", color=color, markersize=7)
        axes.plot([value], [place], "o", color=color, markersize=6)
