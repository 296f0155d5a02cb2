"""Heat maps of the signal, layers x arms, at initialisation and at the end of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from train.figures.heat_map import BROKEN, MISSING, ZERO, colors, limits, scale
from train.figures.style import ON_DARK, ON_LIGHT, ArmStyle, numbers_between, rendered, shortened, width
from train.text import short_number, two_digits

_MAX_LAYER_LABELS, _ARM_CHARACTERS, _ARM_IN = 40, 30, 0.12
_CELL_IN = 0.36
"""Width of a cell that holds a number."""
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def draw_heat(
    statistic: str, layers: Sequence[str], arms: Sequence[ArmStyle], first: NDArray[np.float64], last: NDArray[np.float64]
) -> bytes:
    """Draw two maps with one colour scale: before the first update, and at the last observation.

    `first` and `last`: layers x arms; NaN or infinity where the signal is not finite in a run, minus infinity where nothing was
    measured.
    """
    rows = len(layers)
    body = max(1.5, min(0.17 * rows, 6.0))
    foot = 0.3 + 0.052 * max(len(style.named(_ARM_CHARACTERS)) for style in arms)
    beside = 2 * _ARM_IN * len(arms) <= width() - 2.0
    figure = Figure(figsize=(width(), (body if beside else 2 * body + 0.3) + foot + 0.75), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True) if beside else figure.subplots(2, 1, sharex=True)
    both = np.concatenate([first, last], axis=1)
    norm = scale(both, share=False)
    for axes, values, title in ((left, first, "at initialisation"), (right, last, "at the end")):
        shades = colors(values, norm)
        axes.imshow(shades, aspect="auto", interpolation="nearest")
        if rows <= _MAX_LAYER_LABELS and _CELL_IN * len(arms) <= (width() - 2.0) / (2 if beside else 1):
            _write(axes, values, shades)
        axes.set_title(title, loc="left")
        _label(axes, layers, arms)
    _bar(figure, [left, right], norm, both, statistic)
    if notes := _notes(both):
        figure.legend(handles=notes, loc="outside lower left", ncols=3, handlelength=1.2)
    return rendered(figure)


def _write(axes: Axes, values: NDArray[np.float64], shades: NDArray[np.float64]) -> None:
    """Write the finite values into their cells."""
    lightness = shades @ _LUMINANCE
    for row, column in np.argwhere(np.isfinite(values)):
        color = ON_LIGHT if lightness[row, column] > 0.45 else ON_DARK
        text = short_number(float(two_digits(float(values[row, column]))))
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)


def _label(axes: Axes, layers: Sequence[str], arms: Sequence[ArmStyle]) -> None:
    every = math.ceil(len(layers) / _MAX_LAYER_LABELS)
    axes.set_yticks(range(0, len(layers), every), [shortened(layer, 20) for layer in layers[::every]], fontsize=7.5)
    axes.set_xticks(range(len(arms)), [style.named(_ARM_CHARACTERS) for style in arms], rotation=90, fontsize=7.5)
    axes.tick_params(length=2, pad=2)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _bar(figure: Figure, axes: list[Axes], norm: Normalize, values: NDArray[np.float64], label: str) -> None:
    low, high = limits(norm)
    positive = values[np.isfinite(values) & (values > 0)]
    below, above = bool((positive < low).any()), bool((positive > high).any())
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, extend=extend, extendfrac=0.03, aspect=30, pad=0.01)
    ticks = numbers_between(low, high)
    bar.set_ticks(ticks, labels=[short_number(tick) for tick in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=8, length=2.5, pad=2)
    bar.set_label(label, fontsize=8)


def _notes(values: NDArray[np.float64]) -> list[Patch]:
    notes = []
    if bool((~np.isfinite(values) & (values != -np.inf)).any()):
        notes.append(Patch(color=BROKEN, label="NaN or infinite in a run"))
    if bool((values == 0).any()):
        notes.append(Patch(color=ZERO, label="exactly zero"))
    if bool((values == -np.inf).any()):
        notes.append(Patch(color=MISSING, label="no such layer, or no completed run"))
    return notes
