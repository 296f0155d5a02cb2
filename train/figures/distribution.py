"""The distribution of the activations of each layer over the steps. Importing this module imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from train.columns import Distributions
from train.figures.style import shortened, style, to_png

MOST_LAYERS = 24
_COLUMNS, _PANEL_IN, _BINS = 4, (2.4, 1.5), 60
_MOST_RANGE = 0.9
"""Quantile of the steps' ranges that a panel shows, so that one step that explodes does not hide the others."""


def draw_distributions(layers: Mapping[str, Distributions], title: str) -> bytes:
    """Return a PNG of a panel for each layer: values over steps, brighter where there are more, as log(1 + count).

    The first layer is on top at the left. Of more than `MOST_LAYERS` layers, so many are drawn, evenly.
    """
    drawn = [(name, layer) for name, layer in layers.items() if len(layer.steps) > 1]
    shown = drawn[:: -(-len(drawn) // MOST_LAYERS)]
    rows = -(-len(shown) // _COLUMNS)
    size = _COLUMNS * _PANEL_IN[0], rows * _PANEL_IN[1] + 0.6
    with style():
        figure = Figure(figsize=size)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        figure.subplots_adjust(0.05, 0.34 / size[1], 0.99, 1 - 0.72 / size[1], wspace=0.24, hspace=0.5)
        for axes in list(grid.flat)[len(shown) :]:
            axes.set_visible(False)
        for axes, (name, layer) in zip(grid.flat, shown, strict=False):
            _draw(axes, shortened(name, 30), layer)
        figure.text(
            0.012, 1 - 0.08 / size[1], "distribution of the activations, by layer and step", fontsize=11, va="top", weight="bold"
        )
        figure.text(0.012, 1 - 0.3 / size[1], shortened(title, 130), fontsize=7.5, color="0.35", va="top")
        return to_png(figure)


def _draw(axes: Axes, name: str, layer: Distributions) -> None:
    low, high = _shown_range(layer)
    table = np.stack(
        [_rebinned(*ends, counts, low, high) for ends, counts in zip(layer.ranges, layer.counts, strict=True)], axis=1
    )
    axes.imshow(np.log1p(table), aspect="auto", origin="lower", extent=(-0.5, len(layer.steps) - 0.5, low, high), cmap="viridis")
    axes.set_title(name, loc="left", fontsize=8)
    ticks = sorted({0, (len(layer.steps) - 1) // 2, len(layer.steps) - 1})
    axes.set_xticks(ticks, [f"{layer.steps[tick]:,}" for tick in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7, length=2, pad=2)


def _shown_range(layer: Distributions) -> tuple[float, float]:
    ends = np.array(layer.ranges)
    low = float(np.quantile(ends[:, 0], 1 - _MOST_RANGE, method="nearest"))
    high = float(np.quantile(ends[:, 1], _MOST_RANGE, method="nearest"))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _rebinned(first: float, last: float, counts: object, low: float, high: float) -> NDArray[np.float64]:
    """Return the counts in `_BINS` equal bins from `low` to `high`, as if values were spread evenly within their own bins."""
    own = np.asarray(counts, dtype=np.float64)
    below = np.concatenate([[0.0], np.cumsum(own)])
    edges = np.interp(np.linspace(low, high, _BINS + 1), np.linspace(first, last, len(own) + 1), below)
    return np.diff(edges)
