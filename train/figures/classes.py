"""Differences to the baseline in the accuracy of each class: a heat map of classes x arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.figures.style import ON_DARK, ON_LIGHT, ArmStyle, rendered, shortened, width
from train.text import MINUS

_MOST_WRITTEN = 9
"""Arms up to which the cells hold numbers."""


def draw_classes(names: Sequence[str], arms: Sequence[ArmStyle], points: NDArray[np.float64], clear: NDArray[np.bool_]) -> bytes:
    """Draw differences in percentage points, classes x arms. `clear`: where the interval excludes zero, which has a frame."""
    height = 1.6 + 0.24 * len(names)
    figure = Figure(figsize=(width(), height), layout="constrained")
    axes = figure.add_subplot()
    limit = max(float(np.abs(points).max(initial=0)), 1.0)
    image = axes.imshow(points, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), [shortened(name, 20) for name in names], fontsize=7.5)
    axes.set_xticks(range(len(arms)), [style.named(30) for style in arms], rotation=90, fontsize=7.5)
    axes.tick_params(length=2, pad=2)
    for row, column in np.ndindex(points.shape):
        value, is_clear = points[row, column], bool(clear[row, column])
        text = f"{value:+.1f}".replace("-", MINUS) if len(arms) <= _MOST_WRITTEN else "x" if is_clear else ""
        color = ON_DARK if abs(value) > 0.6 * limit else ON_LIGHT
        frame = {"boxstyle": "round,pad=0.15", "fill": False, "edgecolor": color, "linewidth": 1.0} if is_clear else None
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color, bbox=frame)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label("percentage points", fontsize=8)
    bar.ax.tick_params(labelsize=8, length=2.5, pad=2)
    return rendered(figure)
