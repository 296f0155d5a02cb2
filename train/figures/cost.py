"""The cost figure: time of a run against its metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator

from train.figures.style import ArmStyle, in_percent, rendered, tidy, width
from train.text import duration

MAX_TICKS = 8
CLOCK_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


@dataclass(frozen=True)
class ArmCost:
    """(seconds, metric) of completed runs of one arm, and the mean of all its `runs` completed ones."""

    style: ArmStyle
    points: Sequence[tuple[float, float]]
    mean: tuple[float, float]
    runs: int


def draw_cost(arms: Sequence[ArmCost], metric: str, share: bool) -> bytes:
    """Draw every run as a small marker and the mean of each arm as a large one with its number; the legend gives the names."""
    columns = max(1, round(width() / 2.5))
    height = 0.7 * width() + 0.178 * math.ceil(len(arms) / columns)
    figure = Figure(figsize=(width(), height), layout="constrained")
    axes = figure.add_subplot()
    handles = []
    for arm in arms:
        marks: dict[str, Any] = {"color": arm.style.color, "marker": arm.style.marker, "linestyle": "none"}
        axes.plot(*zip(*arm.points, strict=True), markersize=3, alpha=0.5, **marks)
        (mean,) = axes.plot(*arm.mean, markersize=8, markeredgecolor="white", markeredgewidth=0.8, zorder=3, **marks)
        mean.set_label(arm.style.named(32))
        axes.annotate(str(arm.style.number), arm.mean, (6, 4), textcoords="offset points", fontsize=8, zorder=4)
        handles.append(mean)
    times = [time for arm in arms for time, _ in arm.points]
    if min(times) > 0 and max(times) > 4 * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(CLOCK_S))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        # When all times are equal, matplotlib shows a range of a tenth of them.
        axes.xaxis.set_major_locator(MultipleLocator(spacing(max(times) - min(times) or 0.1 * max(times))))
    axes.xaxis.set_major_formatter(FuncFormatter(_seconds))
    if share:
        in_percent(axes.yaxis)
    axes.set_xlabel("time of a run (h:min:s)" if max(times) >= 60 else "time of a run")
    axes.set_ylabel(metric)
    tidy(axes, "both")
    axes.margins(0.08)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handlelength=1, markerscale=0.75)
    return rendered(figure)


def spacing(range_s: float) -> float:
    """Return the tick distance in seconds, one of the round values in `CLOCK_S`, for at most `MAX_TICKS` ticks over `range_s`."""
    return next((step for step in CLOCK_S if range_s <= MAX_TICKS * step), max(CLOCK_S[-1], range_s / MAX_TICKS))


def _seconds(value: float, _: int) -> str:
    return f"{value:g} s" if value < 60 else duration(value)
