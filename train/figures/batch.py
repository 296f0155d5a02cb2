"""Images as the network sees them, below the same images without augmentation. Importing this module imports matplotlib."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.figures.style import shortened, style, to_png

_COLUMNS, _TILE_IN = 8, 1.05


def draw_batch(plain: NDArray[np.float32], augmented: NDArray[np.float32], title: str) -> bytes:
    """Return a PNG. `plain` and `augmented`: the same images, float [N, C, H, W] in any range; the sizes may differ."""
    count = len(augmented)
    low, high = float(plain.min()), float(plain.max())
    blocks = -(-count // _COLUMNS)
    height = 2 * blocks * _TILE_IN + 0.75
    with style():
        figure = Figure(figsize=(_COLUMNS * _TILE_IN + 0.9, height))
        grid = figure.subplots(2 * blocks, _COLUMNS, squeeze=False)
        figure.subplots_adjust(0.09, 0.01, 0.995, 1 - 0.62 / height, wspace=0.04, hspace=0.04)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        for index in range(count):
            row, column = 2 * (index // _COLUMNS), index % _COLUMNS
            for axes, image in ((grid[row, column], plain[index]), (grid[row + 1, column], augmented[index])):
                axes.imshow(_pixels(image, low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if column == 0:
                grid[row, 0].set_ylabel("original", fontsize=8)
                grid[row + 1, 0].set_ylabel("augmented", fontsize=8)
        figure.text(0.012, 1 - 0.08 / height, "first batch, as the network sees it", fontsize=11, va="top", weight="bold")
        figure.text(0.012, 1 - 0.3 / height, shortened(title, 110), fontsize=7.5, color="0.35", va="top")
        return to_png(figure)


def _pixels(image: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Return the image between 0 and 1: [H, W, 3] in colour, else the first channel [H, W]."""
    scaled = np.clip((image - low) / ((high - low) or 1.0), 0, 1)
    return scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]
