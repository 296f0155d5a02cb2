"""The rates of outcomes: one row per arm with Wilson's interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from train.figures.style import FAINT, GREY, WIDTH_IN, ArmStyle, in_percent, tidy, to_svg


@dataclass(frozen=True)
class RateRow:
    """One arm: its rate with the ends of the interval, as fractions; `detail`: right label."""

    style: ArmStyle
    rate: float
    low: float
    high: float
    detail: str


def draw_rates(rows: Sequence[RateRow], axis: str) -> bytes:
    """Draw the rows from top to bottom, on a scale from 0 to 100 %."""
    figure = Figure(figsize=(WIDTH_IN, 0.85 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for index, row in enumerate(rows):
        color = row.style.color
        axes.plot([row.low, row.high], [index, index], color=color, linewidth=1.8, solid_capstyle="butt")
        axes.plot([row.low, row.high], [index, index], "|", color=color, markersize=7)
        axes.plot([row.rate], [index], row.style.marker, color=color, markersize=6.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.style.named(46) for row in rows])
    details = axes.secondary_yaxis("right")
    details.set_yticks(range(len(rows)), [row.detail for row in rows])
    details.tick_params(length=0, labelsize=8, labelcolor=GREY)
    details.spines["right"].set_visible(False)
    axes.set_xlabel(axis)
    in_percent(axes.xaxis)
    tidy(axes, "x")
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(axis="y", length=0)
    return to_svg(figure)
