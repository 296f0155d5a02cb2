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
    wide = _COLUMNS * _TILE_IN + 0.9
    with style():
        figure = Figure(figsize=(wide, height))
        # One pair of axes for all images: a pair for each takes three times as long.
        axes = figure.add_axes((0.09, 0.01, 0.905, 1 - 0.62 / height - 0.01))
        axes.set(xlim=(0, _COLUMNS), ylim=(2 * blocks, 0))
        axes.axis("off")
        for index in range(count):
            row, column = 2 * (index // _COLUMNS), index % _COLUMNS
            for place, image, name in ((row, plain[index], "original"), (row + 1, augmented[index], "augmented")):
                pixels = _pixels(image, low, high)
                box = _box(column, place, pixels.shape[1] / pixels.shape[0])
                axes.imshow(pixels, extent=box, aspect="auto", cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if column == 0:
                    axes.text(-0.05, place + 0.5, name, fontsize=8, rotation=90, ha="right", va="center")
        axes.set(xlim=(0, _COLUMNS), ylim=(2 * blocks, 0))
        figure.text(0.012, 1 - 0.08 / height, "first batch, as the network sees it", fontsize=11, va="top", weight="bold")
        figure.text(0.012, 1 - 0.3 / height, shortened(title, 110), fontsize=7.5, color="0.35", va="top")
        return to_png(figure)


def _box(column: int, row: int, ratio: float) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of an image of that width / height in its cell, with a gap around it."""
    half = 0.48 * min(1.0, ratio), 0.48 / max(1.0, ratio)
    return column + 0.5 - half[0], column + 0.5 + half[0], row + 0.5 + half[1], row + 0.5 - half[1]


def _pixels(image: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Return the image between 0 and 1: [H, W, 3] in colour, else the first channel [H, W]."""
    scaled = np.clip((image - low) / ((high - low) or 1.0), 0, 1)
    return scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]
