"""How statistics of layers depend on the size of a network: exponents by layer, and the statistics themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from train.figures.style import BASELINE_COLOR, COLORS, GREY, MARKERS, rendered, shortened, tidy, width
from train.text import short_number


@dataclass(frozen=True)
class ExponentPoint:
    """The exponent of a statistic at a layer; NaN where it, an end of its interval, or theory's is unknown."""

    layer: str
    value: float
    low: float
    high: float
    expected: float


@dataclass(frozen=True)
class ExponentPanel:
    """The exponents at one step. `points`: name of the statistic -> its points, in the order of the layers."""

    title: str
    points: Mapping[str, Sequence[ExponentPoint]]


@dataclass(frozen=True)
class SizeLine:
    """One layer: `values`: size -> the statistic in every run; `expected`: size -> theory's, empty where it is silent."""

    layer: str
    values: Mapping[float, Sequence[float]]
    expected: Mapping[float, float]


@dataclass(frozen=True)
class SizePanel:
    """One statistic at one step, in all layers in the order of execution."""

    title: str
    lines: Sequence[SizeLine]


def draw_exponents(panels: Sequence[ExponentPanel], layers: Sequence[str], axis: str) -> bytes:
    """Draw a panel for each step: rows are `layers` from input (top) to output, with an interval for each statistic."""
    figure = Figure(figsize=(width(), 0.4 + (0.7 + 0.26 * len(layers)) * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_exponent_panel(axes, panel, layers)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_yticks(range(len(layers)), [shortened(layer, 28) for layer in layers])
    all_axes[-1].set_xlabel(axis)
    handles = dict(zip(*reversed(all_axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), columnspacing=1, handletextpad=0.2
    )
    return rendered(figure)


def _draw_exponent_panel(axes: Axes, panel: ExponentPanel, layers: Sequence[str]) -> None:
    axes.axvline(0, color=GREY, linewidth=1)
    for index, (name, points) in enumerate(panel.points.items()):
        shift, color = 0.22 * (index - (len(panel.points) - 1) / 2), COLORS[index]
        rows = [layers.index(point.layer) + shift for point in points]
        for row, point in zip(rows, points, strict=True):
            axes.plot([point.low, point.high], [row, row], color=color, linewidth=1.6, solid_capstyle="butt")
        axes.plot(
            [point.value for point in points], rows, MARKERS[index], color=color, markersize=5, linestyle="none", label=name
        )
        theory = [(point.expected, row) for row, point in zip(rows, points, strict=True) if math.isfinite(point.expected)]
        if theory:
            x, y = zip(*theory, strict=True)
            axes.plot(x, y, "|", color=BASELINE_COLOR, markersize=9, markeredgewidth=1.6, linestyle="none", label="theory")
    axes.set_title(panel.title)
    tidy(axes, "x")
    axes.tick_params(axis="y", length=0)


def draw_sizes(rows: Sequence[Sequence[SizePanel]], axis: str) -> bytes:
    """Draw a row of panels for each statistic, a panel for each step; both axes are logarithmic. Lines: layers."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(width(), 1.0 + 1.7 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, sharey="row")
    layers = list(dict.fromkeys(line.layer for row in rows for panel in row for line in panel.lines))
    colors = {layer: colormaps["viridis"](0.95 * place / max(len(layers) - 1, 1)) for place, layer in enumerate(layers)}
    for axes_row, row in zip(grid, rows, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
        for axes, panel in zip(axes_row, row, strict=False):
            _draw_size_panel(axes, panel, colors)
            axes.set_xlabel(axis)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [layer for layer in layers if layer in handles]
    labels = [shortened(layer, 24) for layer in shown]
    figure.legend([handles[layer] for layer in shown], labels, loc="outside lower center", ncols=3, columnspacing=1)
    return rendered(figure)


def _draw_size_panel(axes: Axes, panel: SizePanel, colors: Mapping[str, tuple[float, float, float, float]]) -> None:
    sizes = sorted({size for line in panel.lines for size in line.values})
    for line in panel.lines:
        own = sorted(line.values)
        color = colors[line.layer]
        means = [math.exp(sum(map(math.log, line.values[size])) / len(line.values[size])) for size in own]
        axes.plot(own, means, "-o", color=color, linewidth=1.3, markersize=2.5, label=line.layer)
        dots = [(size, value) for size in own for value in line.values[size]]
        axes.plot(*zip(*dots, strict=True), ".", color=color, markersize=2, alpha=0.4)
        if line.expected:
            theory = sorted(line.expected.items())
            axes.plot(*zip(*theory, strict=True), color=BASELINE_COLOR, linewidth=0.7, linestyle=(0, (2, 2)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(panel.title)
    tidy(axes, "both")
