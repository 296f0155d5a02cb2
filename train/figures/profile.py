"""The std of the activations against depth, at a few steps, over mean-field theory. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure

from train.figures.style import GREY, log_scale, room, shortened, style, tidy, to_png

_SIZE_IN, _MOST_LABELS = (9.5, 4.6), 40


def draw_profile(
    layers: Sequence[str], profiles: Sequence[tuple[int, Sequence[float]]], expected: Sequence[float | None], title: str
) -> bytes:
    """Return a PNG of a line over the layers for each (step, values), and one of what theory expects at initialisation.

    A line is interrupted where a value is not positive and finite, or where theory does not cover a layer.
    """
    with style():
        figure = Figure(figsize=_SIZE_IN)
        axes = figure.add_subplot()
        every = -(-len(layers) // _MOST_LABELS)
        names = [shortened(layer, 28) for layer in layers[::every]]
        wide, high = _SIZE_IN
        # A layout engine draws the axes once more to measure them: half of the time of this figure.
        figure.subplots_adjust(0.6 / wide, room(names, 8) / high, 1 - 0.08 / wide, 1 - 0.26 / high)
        places = range(len(layers))
        if any(value is not None for value in expected):
            axes.plot(places, _drawable(expected), color=GREY, linewidth=3, alpha=0.5, label="mean-field theory, step 0")
        shades = colormaps["viridis"]
        for index, (step, values) in enumerate(profiles):
            color = shades(0.9 * index / max(len(profiles) - 1, 1))
            axes.plot(places, _drawable(values), "o-", color=color, markersize=3.5, linewidth=1.3, label=f"step {step:,}")
        log_scale(axes.yaxis)
        axes.set_xticks(range(0, len(layers), every), names, rotation=90)
        tidy(axes)
        axes.set_ylabel("std of the activations")
        axes.set_title(shortened(title, 120), loc="left", fontsize=8)
        axes.legend(loc="best")
        return to_png(figure, dpi=100)


def _drawable(values: Sequence[float | None]) -> list[float]:
    return [value if value is not None and math.isfinite(value) and value > 0 else math.nan for value in values]
