"""A figure of the signal at initialisation: measurements over the expectation of mean-field theory.

Importing this module imports matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import log_scale, room, shortened, style, tidy, to_png

# Okabe & Ito's blue and vermilion: distinguishable with every kind of colour vision, and by lightness in print.
_WEIGHTED, _ACTIVATION, _THEORY = "#0072B2", "#D55E00", "#555555"
_SIZE_IN, _MAX_LABELS = (9.5, 6.4), 40


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
    notes = ["Theory assumes many channels. With fewer channels, single draws deviate more from it, increasingly so with depth."]
    if gap := next((point.gap for point in points if point.gap), ""):
        notes.append(f"No curve where theory does not cover a layer: {gap}.")
    every = -(-len(points) // _MAX_LABELS)
    names = [shortened(point.layer, 28) for point in points[::every]]
    wide, high = _SIZE_IN
    foot = 0.1 + 0.14 * len(notes)
    with style():
        figure = Figure(figsize=_SIZE_IN)
        above, below = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(0.85 / wide, (foot + room(names, 7)) / high, 1 - 0.08 / wide, 1 - 0.26 / high, hspace=0.06)
        _chart(above, points, [point.std for point in points], [point.expected_std for point in points])
        _chart(below, points, [value / last for value in gradients], [point.expected_gradient_std for point in points])
        above.set_ylabel("std of the output")
        below.set_ylabel("std of the gradient,\nrelative to the last layer")
        below.set_xticks(range(0, len(points), every), names, rotation=90, fontsize=7)
        above.set_title(shortened(title, 120), loc="left", fontsize=8)
        above.legend(loc="best")
        figure.text(0.01, 0.06 / high, "\n".join(notes), fontsize=8, va="bottom")
        return to_png(figure, dpi=100)


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
    shown = [value for value in [*values, *theory] if _is_drawable(value)]
    if shown and max(shown) < 10 * min(shown):  # so that a small spread looks small
        middle = math.sqrt(max(shown) * min(shown))
        axes.set_ylim(min(min(shown) / 1.2, middle / 3.2), max(max(shown) * 1.2, middle * 3.2))
    log_scale(axes.yaxis)
    tidy(axes)


def _is_drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0
