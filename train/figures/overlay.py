"""The layers of two runs over each other. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import COLORS, log_scale, shortened, style, tidy, to_svg

_WIDTH_IN, _HEIGHT_IN, _MOST_LABELS = 9.0, 2.6, 40


@dataclass(frozen=True)
class Overlay:
    """One statistic of two runs. `lines`: run, when, and a value for each of `layers`, NaN where there is none."""

    title: str
    layers: Sequence[str]
    lines: Sequence[tuple[str, str, Sequence[float]]]
    is_log: bool


def draw_overlays(charts: Sequence[Overlay]) -> bytes:
    """Return an SVG with a chart below the other: the first observation dashed, the last one solid, a colour for each run."""
    with style():
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN * len(charts) + 0.6), layout="constrained")
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            _draw(axes, chart)
        return to_svg(figure)


def _draw(axes: Axes, chart: Overlay) -> None:
    for index, (run, when, values) in enumerate(chart.lines):
        drawn = [value if math.isfinite(value) and (value > 0 or not chart.is_log) else math.nan for value in values]
        look = (0, (4, 2)) if index % 2 == 0 else "-"
        color = COLORS[index // 2]
        axes.plot(range(len(drawn)), drawn, color=color, linestyle=look, marker="o", markersize=3, label=f"{run}, {when}")
    if chart.is_log:
        log_scale(axes.yaxis)
    every = -(-len(chart.layers) // _MOST_LABELS)
    axes.set_xticks(range(0, len(chart.layers), every), [shortened(layer, 24) for layer in chart.layers[::every]], rotation=90)
    tidy(axes)
    axes.set_title(chart.title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
