"""Rows of an interval each, from top to bottom: what the forest plot and the rates of outcomes share."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import FAINT, GREY, ArmStyle, tidy, width


class IntervalRow(Protocol):
    """One arm: the ends of its interval, and the label at the right."""

    @property
    def style(self) -> ArmStyle: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def detail(self) -> str: ...


def figure_of_rows(rows: Sequence[IntervalRow]) -> tuple[Figure, Axes]:
    """Return an empty figure that is high enough for the rows."""
    figure = Figure(figsize=(width(), 0.85 + 0.27 * len(rows)), layout="constrained")
    return figure, figure.add_subplot()


def draw_interval(axes: Axes, index: int, row: IntervalRow) -> None:
    """Draw the interval of a row with its ends."""
    ends, place, color = [row.low, row.high], [index, index], row.style.color
    axes.plot(ends, place, color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot(ends, place, "|", color=color, markersize=7)


def label_rows(axes: Axes, rows: Sequence[IntervalRow], axis: str) -> None:
    """Label the rows at the left and at the right, and the axis below them. The limits of x are set before."""
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.style.named(round(5 * width()), 2) for row in rows], fontsize=7.5)
    details = axes.secondary_yaxis("right")
    details.set_yticks(range(len(rows)), [row.detail for row in rows])
    details.tick_params(length=0, labelsize=7.5, labelcolor=GREY)
    details.spines["right"].set_visible(False)
    axes.set_xlabel("\n".join(wrap(axis, round(9 * width()))))
    tidy(axes, "x")
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(axis="y", length=0, labelsize=7.5)
