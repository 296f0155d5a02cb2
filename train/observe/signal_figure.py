"""A figure of the signal at initialisation: measurements over the expectation of mean-field theory.

Importing this module imports matplotlib.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from train.observe.theory.recursion import Expected

# Okabe & Ito's blue and vermilion: distinguishable with every kind of colour vision, and by lightness in print.
_WEIGHTED, _ACTIVATION, _THEORY = "#0072B2", "#D55E00", "#555555"
_WIDTH_IN, _HEIGHT_IN, _DPI, _MAX_LABELS = 9.5, 6.4, 100, 40


@dataclass(frozen=True)
class Point:
    """The measured std of one layer's output and of its gradient; NaN if not measured."""

    layer: str
    weighted: bool
    std: float
    gradient_std: float


def layer_points(values: Mapping[str, float]) -> list[Point]:
    """Return a point for every layer of a record, in the record's order, which is the order of execution."""
    layers = [tag.partition("/")[2] for tag in values if tag.startswith("activation_std/")]
    return [
        Point(
            layer,
            f"weight_std/{layer}" in values,
            values[f"activation_std/{layer}"],
            values.get(f"gradient_std/{layer}", math.nan),
        )
        for layer in layers
    ]


def draw_signal(measured: Sequence[Point], expected: Sequence[Expected], title: str) -> bytes:
    """Return a PNG of two charts over the layers, both with log scales.

    Forward: the std of each output. Backward: the std of its gradient relative to that of the last layer. The curve is the
    expectation of theory, interrupted at layers that theory does not cover.
    """
    by_layer = {layer.name: layer for layer in expected}
    theory = [by_layer.get(point.layer) for point in measured]
    last = next((point.gradient_std for point in reversed(measured) if _is_drawable(point.gradient_std)), math.nan)
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _chart(above, measured, [point.std for point in measured], [layer.std if layer else None for layer in theory])
    backward = [layer.gradient_std if layer else None for layer in theory]
    _chart(below, measured, [point.gradient_std / last for point in measured], backward)
    above.set_ylabel("std of the output")
    below.set_ylabel("std of the gradient,\nrelative to the last layer")
    _name_layers(below, measured)
    notes = ["Theory assumes many channels. With fewer channels, single draws deviate more from it, increasingly so with depth."]
    if gap := _first_gap(theory):
        notes.append(f"No curve where theory does not cover a layer: {gap}.")
    above.set_title(title, loc="left", fontsize=10, wrap=True)
    figure.supxlabel("\n".join(notes), fontsize=8, x=0.01, ha="left")
    above.legend(loc="best", fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _chart(axes: Axes, measured: Sequence[Point], values: Sequence[float], curve: Sequence[float | None]) -> None:
    positions = range(len(measured))
    theory = [value if value is not None and _is_drawable(value) else math.nan for value in curve]
    axes.plot(positions, theory, color=_THEORY, linewidth=1.4, marker="_", markersize=9, label="mean-field theory", zorder=1)
    for weighted, color, marker, label in (
        (True, _WEIGHTED, "o", "measured, convolution or linear layer"),
        (False, _ACTIVATION, "s", "measured, activation function"),
    ):
        points = [(i, value) for i, value in enumerate(values) if measured[i].weighted == weighted and _is_drawable(value)]
        axes.plot([i for i, _ in points], [v for _, v in points], marker, color=color, markersize=4.5, label=label, zorder=2)
    axes.set_yscale("log")
    drawn = [value for value in [*values, *theory] if _is_drawable(value)]
    if drawn and max(drawn) < 10 * min(drawn):  # a log axis over less than a decade has no ticks
        middle = math.sqrt(max(drawn) * min(drawn))
        axes.set_ylim(min(min(drawn) / 1.2, middle / 3.2), max(max(drawn) * 1.2, middle * 3.2))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _name_layers(axes: Axes, measured: Sequence[Point]) -> None:
    every = -(-len(measured) // _MAX_LABELS)
    ticks = list(range(0, len(measured), every))
    axes.set_xticks(ticks, [measured[i].layer for i in ticks], rotation=90, fontsize=7)


def _first_gap(theory: Sequence[Expected | None]) -> str:
    missing = [layer for layer in theory if layer and (layer.std is None or layer.gradient_std is None)]
    gaps = [layer.forward_gap or layer.backward_gap for layer in missing]
    return next((gap for gap in gaps if gap), "")


def _is_drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0
