"""Learning curves: thin lines for single runs or a band for many, thick lines for the mean of an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from train.figures.style import FAINT, GREY, ArmStyle, finite, in_percent, padded, rendered, tidy, width

TOGETHER = 6
"""Up to this many arms share one chart; with more, each arm has its own small panel."""
MOST_PANELS = 24
_PANEL_IN = 1.65


_MOST_VECTOR, _ON_ANY_PAGE = 200, "#808080"
"""Points of a line up to which it is not drawn as an image, whose colours are the same on a dark page."""


@dataclass(frozen=True)
class CurveLine:
    """The curve of one run. `ended`: whether the run completed, so that it counts in the mean."""

    epochs: Sequence[float]
    values: Sequence[float]
    ended: bool


@dataclass(frozen=True)
class ArmCurves:
    """The curves of one arm. `mean`: (epoch, mean) where all completed runs have a value; `band`: (epoch, low, high) for many."""

    style: ArmStyle
    lines: Sequence[CurveLine]
    mean: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """The curves of one tag. `share`: the value is a fraction, labelled in percent."""

    title: str
    share: bool
    arms: Sequence[ArmCurves]


def draw_together(charts: Sequence[Chart]) -> bytes:
    """Draw the charts below each other, each with all arms."""
    figure = Figure(figsize=(width(), 2.4 * len(charts) + 0.8), layout="constrained")
    for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        limits, log = scale_of(chart)
        for arm in sorted(chart.arms, key=lambda arm: arm.style.is_baseline):
            _draw(axes, arm, limits, linewidth=2.0)
        _finish(axes, chart, limits, log)
        axes.set_title(chart.title, loc="left")
        axes.set_xlabel("epoch")
    handles = {arm.style.number: arm.style for arm in charts[0].arms}
    drawn = [_handle(handles[number]) for number in sorted(handles)]
    columns = max(1, round(width() / 2.5))
    figure.legend(handles=drawn, loc="outside lower left", ncols=columns, handlelength=3)
    return rendered(figure)


def draw_panels(chart: Chart) -> bytes:
    """Draw a small panel for each arm, with the baseline's mean in every panel."""
    arms = chart.arms[:MOST_PANELS]
    columns = max(1, round(width() / _PANEL_IN))
    rows = -(-len(arms) // columns)
    height = 0.75 + 1.5 * rows
    figure = Figure(figsize=(width(), height))  # fixed layout: constrained layout takes seconds for so many axes
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(0.46 / width(), 0.42 / height, 0.99, 1 - 0.36 / height, wspace=0.1, hspace=0.5)
    limits, log = scale_of(chart)
    reference = next((arm.mean for arm in chart.arms if arm.style.is_baseline), ())
    for index, axes in enumerate(grid.flat):
        if index >= len(arms):
            axes.set_visible(False)
            continue
        arm = arms[index]
        if reference and not arm.style.is_baseline:
            axes.plot(*zip(*reference, strict=True), color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), **_dot(reference, "_"))
        _draw(axes, arm, limits, linewidth=1.8, plain=True)
        _finish(axes, chart, limits, log)
        axes.set_title(arm.style.named(round(12.5 * width() / columns), 2), loc="left", fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if index + columns >= len(arms):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch", fontsize=8)
    return rendered(figure)


def scale_of(chart: Chart) -> tuple[tuple[float, float], bool]:
    """Return the limits of the value axis and whether it is logarithmic.

    The completed runs set the limits, so that an exploding run does not hide the others.
    """
    ended = finite([value for arm in chart.arms for line in arm.lines if line.ended for value in line.values])
    ended += finite([value for arm in chart.arms for _, low, high in arm.band for value in (low, high)])
    values = ended or finite([value for arm in chart.arms for line in arm.lines for value in line.values])
    if not values:
        return (0.0, 1.0), False
    low, high = (float(value) for value in np.quantile(values, (0.0, 1.0 if chart.share else 0.998)))
    if chart.share:
        return padded(low, high, 0.04), False
    if low > 0 and high > 8 * low:
        return (low / 1.15, high * 1.15), True
    return padded(low, high, 0.04), False


def _draw(axes: Axes, arm: ArmCurves, limits: tuple[float, float], linewidth: float, plain: bool = False) -> None:
    if arm.band:
        epochs, low, high = zip(*arm.band, strict=True)
        edge = 0 if len(epochs) > 1 else 4  # of a single point the area has no width
        axes.fill_between(epochs, low, high, color=arm.style.color, alpha=0.18, linewidth=edge)
    for line in arm.lines:
        pairs = [(x, y) for x, y in zip(line.epochs, line.values, strict=True) if math.isfinite(y)]
        if not pairs:
            continue
        is_image = len(pairs) > _MOST_VECTOR
        color = _ON_ANY_PAGE if is_image and arm.style.is_baseline else arm.style.color
        axes.plot(*zip(*pairs, strict=True), color=color, linewidth=0.6, alpha=0.45, rasterized=is_image, **_dot(pairs, "."))
        if not line.ended:
            x, y = pairs[-1]  # clipped to the edge: a marker outside would enlarge the layout and shrink the axes
            inside = min(max(y, limits[0]), limits[1])
            axes.plot(x, inside, marker="x", color=arm.style.color, markersize=6, clip_on=False)
    if arm.mean:
        every = max(1, len(arm.mean) // 6)
        dashes = "-" if plain else arm.style.dashes
        marker = "" if plain and len(arm.mean) > 1 else arm.style.marker
        axes.plot(*zip(*arm.mean, strict=True), color=arm.style.color, linewidth=linewidth, linestyle=dashes, marker=marker)
        axes.lines[-1].set(markersize=4.5, markevery=every)


def _dot(points: Sequence[object], marker: str) -> dict[str, Any]:
    """Return the marker of a line that has one point, which would be invisible."""
    return {"marker": marker} if len(points) == 1 else {}


def _finish(axes: Axes, chart: Chart, limits: tuple[float, float], log: bool) -> None:
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        narrow = limits[1] < 30 * limits[0]
        axes.yaxis.set_minor_formatter(FuncFormatter(_one_two_five) if narrow else NullFormatter())
        axes.tick_params(axis="y", which="minor", length=1.5, labelsize=7)
    elif chart.share:
        in_percent(axes.yaxis)
    axes.set_ylim(*limits)
    axes.set_xlim(0, _last_epoch(chart) * 1.02)
    tidy(axes)
    axes.spines["left"].set_color(FAINT)


def _last_epoch(chart: Chart) -> float:
    ends = [line.epochs[-1] for arm in chart.arms for line in arm.lines if line.epochs]
    return max([*ends, *(arm.band[-1][0] for arm in chart.arms if arm.band)], default=0.0) or 1.0


def _one_two_five(value: float, _: int) -> str:
    digit = value / 10 ** math.floor(math.log10(value))
    return f"{value:g}" if round(digit) in (2, 5) else ""


def _handle(style: ArmStyle) -> Line2D:
    look: dict[str, Any] = {"color": style.color, "linestyle": style.dashes, "marker": style.marker}
    return Line2D([], [], markersize=4.5, linewidth=2, label=style.named(30), **look)
