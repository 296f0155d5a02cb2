"""Drawing of heat maps. Importing this module imports matplotlib, which takes about as long as drawing a few maps."""

from __future__ import annotations

import bisect
import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from train.columns import Columns, LearningRate
from train.figures.style import numbers_between
from train.tags import Statistic
from train.text import short_number

# Viridis is readable with and without full colour vision, and its lightness increases evenly. Cells without a value differ from
# it by pattern and lightness.
_COLORS, _SIGNED_COLORS = "viridis", "PuOr"
BROKEN, BROKEN_TOO, ZERO, MISSING = (0.80, 0.05, 0.10), (1.0, 0.80, 0.80), (0.01, 0.01, 0.01), (0.88, 0.88, 0.88)
_WIDTH_IN, _DPI = 9.5, 100
_ROW_IN, _MIN_ROW_IN, _MAX_LABELS = 0.17, 0.06, 70
_SPREAD = (0.02, 0.95)
"""Quantiles of the columns' minima and maxima that bound the colour scale, so that one exploding column does not fill it."""


def draw(statistic: Statistic, columns: Columns, lr: LearningRate, broken_step: int | None, title: str) -> bytes:
    """Return a PNG of layers (rows, the first on top) by recorded steps (columns of equal width).

    The learning rate is drawn above if it changed, and a line marks `broken_step`. Cells that are zero on a log scale, not finite
    or not measured have colours outside the scale.
    """
    table = as_table(columns)
    norm = signed_scale(table) if statistic.is_signed else scale(table, statistic.is_share)
    with_lr = len(set(lr.values)) > 1
    entries = _legend_entries(table, norm, broken_step)
    rows = len(columns.layers)
    head, body, foot = 0.9 if with_lr else 0.52, max(1.4, rows * row_height(rows)), 0.72 if entries else 0.48
    height, left = head + body + foot, min(0.078 * max(map(len, columns.layers)) + 0.3, 3.2)
    box = (left / _WIDTH_IN, foot / height, (_WIDTH_IN - left - 1.05) / _WIDTH_IN, body / height)
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI)
    axes = figure.add_axes(box)
    axes.imshow(colors(table, norm), aspect="auto", interpolation="nearest")
    _label(axes, columns)
    _color_bar(figure, (box[0] + box[2] + 0.02, box[1], 0.018, box[3]), norm, table)
    _heading(figure, statistic.heat_map, title, height)
    if with_lr:
        _learning_rate(figure.add_axes((box[0], (foot + body + 0.05) / height, box[2], 0.24 / height)), columns, lr)
    _marks(axes, columns, lr, broken_step)
    if entries:
        figure.legend(handles=entries, loc="lower left", ncols=3, fontsize=8, frameon=False, borderaxespad=0.3, handlelength=1.2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def row_height(rows: int) -> float:
    """Return the height of a row in inches: smaller with more rows, but always visible."""
    return max(_ROW_IN * min(1.0, _MAX_LABELS / rows), _MIN_ROW_IN)


def as_table(columns: Columns) -> NDArray[np.float64]:
    """Return layers x steps; minus infinity marks cells that were not measured, as no statistic takes that value."""
    table = np.full((len(columns.layers), len(columns.steps)), -np.inf)
    for i, column in enumerate(columns.values):
        table[: len(column), i] = [-math.inf if value is None else math.inf if value == -math.inf else value for value in column]
    return table


def scale(table: NDArray[np.float64], share: bool) -> Normalize:
    """Return the colour scale of a map.

    For a share it runs from 0 to 1 as a square root, which widens small values. Otherwise it is logarithmic over the positive
    finite values of nearly all columns, and spans at least a factor of 2.
    """
    if share:
        return PowerNorm(0.5, 0, 1)
    columns = [column[np.isfinite(column) & (column > 0)] for column in table.T]
    if not any(column.size for column in columns):
        return LogNorm(0.1, 1)
    low = np.quantile([column.min() for column in columns if column.size], _SPREAD[0], method="nearest")
    high = np.quantile([column.max() for column in columns if column.size], _SPREAD[1], method="nearest")
    if high < 2 * low:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = middle / math.sqrt(2), middle * math.sqrt(2)
    return LogNorm(low, high)


def signed_scale(table: NDArray[np.float64]) -> Normalize:
    """Return the colour scale of a statistic on both sides of zero: linear, with zero in the middle, over nearly all columns."""
    sizes = [np.abs(column[np.isfinite(column)]) for column in table.T]
    largest = [column.max() for column in sizes if column.size]
    limit = float(np.quantile(largest, _SPREAD[1], method="nearest")) if largest else 0.0
    return Normalize(-(limit or 1.0), limit or 1.0)


def colors(table: NDArray[np.float64], norm: Normalize) -> NDArray[np.float64]:
    """Return the RGB colour of each cell, components from 0 to 1."""
    low, high = limits(norm)
    zero = (table == 0) & isinstance(norm, LogNorm)
    drawable = np.isfinite(table) & ~zero
    shades = colormaps[_map_of(norm)](np.asarray(norm(np.clip(np.where(drawable, table, high), low, high))))[..., :3]
    shades[zero] = ZERO
    checkered = np.indices(table.shape).sum(axis=0) % 2 == 1
    shades[~np.isfinite(table)] = BROKEN
    shades[~np.isfinite(table) & checkered] = BROKEN_TOO
    shades[table == -np.inf] = MISSING
    return shades


def _map_of(norm: Normalize) -> str:
    return _SIGNED_COLORS if limits(norm)[0] < 0 else _COLORS


def limits(norm: Normalize) -> tuple[float, float]:
    assert norm.vmin is not None
    assert norm.vmax is not None
    return norm.vmin, norm.vmax


def column_of(step: float, steps: Sequence[int]) -> float:
    """Return the position of a step between the columns of the recorded steps; 0 is the middle of the first column."""
    right = bisect.bisect_left(steps, step)
    if right == 0:
        return 0.0
    if right == len(steps):
        return len(steps) - 1.0
    before, after = steps[right - 1], steps[right]
    return right - 1 + (step - before) / (after - before)


def _label(axes: Axes, columns: Columns) -> None:
    names, count = list(columns.layers), len(columns.layers)
    every = math.ceil(count / _MAX_LABELS)
    axes.set_yticks(range(0, count, every), names[::every], fontsize=8 if count > 12 else 9)
    steps = columns.steps
    max_ticks = 10 if steps[-1] < 100_000 else 7
    ticks = (
        sorted({round(i * (len(steps) - 1) / (max_ticks - 1)) for i in range(max_ticks)})
        if len(steps) > max_ticks
        else range(len(steps))
    )
    axes.set_xticks(list(ticks), [f"{steps[i]:,}" for i in ticks], fontsize=8)
    axes.set_xlabel("step (updates done)", fontsize=8, labelpad=3)
    axes.tick_params(length=2.5, pad=2)


def _color_bar(figure: Figure, box: tuple[float, float, float, float], norm: Normalize, table: NDArray[np.float64]) -> None:
    low, high = limits(norm)
    finite = table[np.isfinite(table) & ((table > 0) | (not isinstance(norm, LogNorm)))]
    below, above = bool((finite < low).any()), bool((finite > high).any())
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    bar = figure.colorbar(ScalarMappable(norm, _map_of(norm)), cax=figure.add_axes(box), extend=extend, extendfrac=0.03)
    shares = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
    ticks = numbers_between(low, high) if isinstance(norm, LogNorm) else [low, low / 2, 0, high / 2, high] if low < 0 else shares
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" if low < 0 else short_number(tick) for tick in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=8, length=2.5, pad=2)


def _heading(figure: Figure, heading: str, title: str, height: float) -> None:
    figure.text(0.012, 1 - 0.08 / height, f"{heading}, by layer and step", fontsize=11, weight="bold", va="top")
    fitting = textwrap.shorten(title, 150, placeholder=" ...")
    figure.text(0.012, 1 - 0.30 / height, fitting, fontsize=7.5, color="0.35", va="top")


def _learning_rate(axes: Axes, columns: Columns, lr: LearningRate) -> None:
    """Draw the learning rate in its own axes, on a log scale with values at the jumps of a step schedule."""
    positions = [column_of(step, columns.steps) for step in lr.steps]
    axes.plot(positions, lr.values, color="0.15", linewidth=1, drawstyle="steps-post" if lr.stands_out else "default")
    if lr.stands_out and min(lr.values) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(lr.values) / 1.5, max(lr.values) * 1.5)
        for step in lr.jumps:
            value = lr.values[min(bisect.bisect_left(lr.steps, step), len(lr.values) - 1)]
            position = column_of(step, columns.steps)
            axes.annotate(f"{value:.3g}", (position, value), (4, 1), textcoords="offset points", fontsize=7, va="bottom")
    else:
        axes.set_ylim(0, 1.15 * max(lr.values))
    axes.set_xlim(-0.5, len(columns.steps) - 0.5)
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    labelled = lr.values[0] if lr.stands_out else max(lr.values)
    axes.set_yticks([labelled], [f"lr {labelled:.3g}"], fontsize=8)
    axes.tick_params(length=2.5, pad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _marks(axes: Axes, columns: Columns, lr: LearningRate, broken_step: int | None) -> None:
    for step in lr.jumps if lr.stands_out else []:
        axes.axvline(column_of(step, columns.steps), color="white", linewidth=1.6)
        axes.axvline(column_of(step, columns.steps), color="black", linewidth=1, linestyle=(0, (4, 3)))
    if broken_step is not None:
        beyond = broken_step > columns.steps[-1]
        axes.axvline(column_of(broken_step, columns.steps) + (0.5 if beyond else -0.5), color=BROKEN, linewidth=3)


def _legend_entries(table: NDArray[np.float64], norm: Normalize, broken_step: int | None) -> list[Patch]:
    """Return legend entries for what the colour bar does not show."""
    entries: list[Patch] = []
    if broken_step is not None:
        entries.append(Patch(color=BROKEN, label=f"NaN or infinite, from step {broken_step:,}"))
    elif bool((~np.isfinite(table) & (table != -np.inf)).any()):
        entries.append(Patch(color=BROKEN, label="NaN or infinite"))
    if isinstance(norm, LogNorm) and bool((table == 0).any()):
        entries.append(Patch(color=ZERO, label="exactly zero"))
    if bool((table == -np.inf).any()):
        entries.append(Patch(color=MISSING, label="not measured"))
    return entries
