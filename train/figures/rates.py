"""The rates of outcomes: one row per arm with Wilson's interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from train.figures.intervals import draw_interval, figure_of_rows, label_rows
from train.figures.style import ArmStyle, in_percent, rendered


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
    figure, axes = figure_of_rows(rows)
    for index, row in enumerate(rows):
        draw_interval(axes, index, row)
        axes.plot([row.rate], [index], row.style.marker, color=row.style.color, markersize=6.5, clip_on=False)
    axes.set_xlim(-0.02, 1.02)
    in_percent(axes.xaxis)
    label_rows(axes, rows, axis)
    return rendered(figure)
