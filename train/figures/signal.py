"""A figure of the signal at initialisation: measurements over the expectation of mean-field theory.

Importing this module imports matplotlib.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Okabe & Ito's blue and vermilion: distinguishable with every kind of colour vision, and by lightness in print.
_WEIGHTED, _ACTIVATION, _THEORY = "#0072B2", "#D55E00", "#555555"
_WIDTH_IN, _HEIGHT_IN, _DPI, _MAX_LABELS = 9.5, 6.4, 100, 40


@dataclass(frozen=True)
class Point:
    """One layer: the std of its output and of its gradient, measured and expected; None if not measured or not covered by theory.

    `expected_gradient_std` is relative to that of the last layer. `gap`: the reason why theory does not cover the layer.
    """

    layer: str
    weighted: bool
    std: float
    gradient_std: float | None
    expected_std: float | None = None
    expected_gradient_std: float | None = None
    gap: str = ""


def draw_signal(points: Sequence[Point], title: str) -> bytes:
    """Return a PNG of two charts over the layers, both with log scales.

    Forward: the std of each output. Backward: the std of its gradient relative to that of the last layer. The curve is the
    expectation of theory, interrupted at layers that theory does not cover.
    """
    gradients = [math.nan if point.gradient_std is None else point.gradient_std for point in points]
    last = next((value for value in reversed(gradients) if _is_drawable(value)), math.nan)
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _chart(above, points, [point.std for point in points], [point.expected_std for point in points])
    _chart(below, points, [value / last for value in gradients], [point.expected_gradient_std for point in points])
    above.set_ylabel("std of the output")
    below.set_ylabel("std of the gradient,\nrelative to the last layer")
    _name_layers(below, points)
    notes = ["Theory assumes many channels. With fewer channels, single draws deviate more from it, increasingly so with depth."]
    if gap := next((point.gap for point in points if point.gap), ""):
        notes.append(f"No curve where theory does not cover a layer: {gap}.")
    above.set_title(title, loc="left", fontsize=10, wrap=True)
    figure.supxlabel("\n".join(notes), fontsize=8, x=0.01, ha="left")
    above.legend(loc="best", fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _chart(axes: Axes, points: Sequence[Point], values: Sequence[float], curve: Sequence[float | None]) -> None:
    positions = range(len(points))
    theory = [value if value is not None and _is_drawable(value) else math.nan for value in curve]
    axes.plot(positions, theory, color=_THEORY, linewidth=1.4, marker="_", markersize=9, label="mean-field theory", zorder=1)
    for weighted, color, marker, label in (
        (True, _WEIGHTED, "o", "measured, convolution or linear layer"),
        (False, _ACTIVATION, "s", "measured, activation function"),
    ):
        drawn = [(i, value) for i, value in enumerate(values) if points[i].weighted == weighted and _is_drawable(value)]
        axes.plot([i for i, _ in drawn], [v for _, v in drawn], marker, color=color, markersize=4.5, label=label, zorder=2)
    axes.set_yscale("log")
    shown = [value for value in [*values, *theory] if _is_drawable(value)]
    if shown and max(shown) < 10 * min(shown):  # a log axis over less than a decade has no ticks
        middle = math.sqrt(max(shown) * min(shown))
        axes.set_ylim(min(min(shown) / 1.2, middle / 3.2), max(max(shown) * 1.2, middle * 3.2))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _name_layers(axes: Axes, points: Sequence[Point]) -> None:
    every = -(-len(points) // _MAX_LABELS)
    ticks = list(range(0, len(points), every))
    axes.set_xticks(ticks, [points[i].layer for i in ticks], rotation=90, fontsize=7)


def _is_drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0
