"""The figures of an evaluation: confusions, calibration and the worst mistakes. Call inside `style()`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.figures.style import COLORS, GREY, in_percent, shortened, tidy
from train.text import percent

MOST_NAMED, MOST_WRITTEN = 60, 25
"""Classes up to which the axes name them, and up to which the cells hold numbers."""
COLUMNS = 6
_TILE_IN = 1.5


def draw_confusion(names: Sequence[str], counts: NDArray[np.int64]) -> Figure:
    """Draw the share of the images of each class (rows) that is taken for each class (columns); the numbers are images."""
    classes = len(names)
    side = min(max(4.0, 0.42 * classes + 1.6), 11.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="class")
    if classes <= MOST_NAMED:
        labels = [shortened(name, 20) for name in names]
        axes.set_xticks(range(classes), labels, rotation=90, fontsize=7.5)
        axes.set_yticks(range(classes), labels, fontsize=7.5)
    if classes <= MOST_WRITTEN:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6.5, color=color)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the images of a class")
    in_percent(bar.ax.yaxis)
    return figure


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies between `low` and `high`: their number, and means, NaN without images."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def draw_reliability(bins: Sequence[ReliabilityBin], caption: str) -> Figure:
    """Draw accuracy against confidence, and below the number of images in each bin."""
    figure = Figure(figsize=(5.0, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [item for item in bins if item.images]
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for item in filled:
        width = item.high - item.low
        upper.bar(item.low, item.accuracy, width, align="edge", color=COLORS[0], alpha=0.35, edgecolor=COLORS[0], linewidth=0.7)
    upper.plot([item.confidence for item in filled], [item.accuracy for item in filled], "o", color=COLORS[0], markersize=4.5)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(caption, loc="left")
    lefts, widths = [item.low for item in bins], [item.high - item.low for item in bins]
    lower.bar(lefts, [item.images for item in bins], widths, align="edge", color="0.8", edgecolor="0.6", linewidth=0.7)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    for axes in (upper, lower):
        tidy(axes)
    in_percent(upper.yaxis)
    in_percent(lower.xaxis)
    return figure


@dataclass(frozen=True)
class Tile:
    """A picture, [C, H, W], and what is written above it."""

    picture: NDArray[np.float32]
    true: str
    predicted: str
    probability: float


def draw_mistakes(tiles: Sequence[Tile]) -> Figure:
    """Draw images that are classified wrong, each with its class, the predicted one and its probability."""
    rows = max(1, math.ceil(len(tiles) / COLUMNS))
    figure = Figure(figsize=(_TILE_IN * COLUMNS, (_TILE_IN + 0.42) * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.axis("off")
        if place >= len(tiles):
            continue
        tile = tiles[place]
        axes.imshow(_shown(tile.picture), cmap="gray", interpolation="nearest")
        axes.set_title(
            f"{shortened(tile.true, 20)}\n\u2192 {shortened(tile.predicted, 18)}\n{percent(tile.probability)}",
            fontsize=7,
            loc="left",
        )
    return figure


def _shown(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return [H, W, 3], or [H, W] of the first channel where there are not three, with values from 0 to 1."""
    values = np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < -0.01 or high > 1.01:  # noise, and other images that are no bytes
        values = (values - low) / max(high - low, 1e-12)
    values = np.clip(values, 0, 1)
    return values.transpose(1, 2, 0) if len(values) == 3 else values[0]
