"""Prepares the figures of an analysis of width or depth. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from train.figures.scaling import ExponentPanel, ExponentPoint, SizeLine, SizePanel, draw_exponents, draw_sizes
from train.figures.style import ReportFigure, style
from train.report.scaling.measure import Axis, Quantity, Series
from train.report.scaling.sentences import NAMES, when
from train.report.scaling.slopes import Slope
from train.report.scaling.verdict import Judged, JudgedGroup

SHORT: dict[Quantity, str] = {"activation": "output", "gradient": "gradient", "update": "update"}
"""The statistics in figures, where there is little room."""


def draw_groups(groups: Sequence[JudgedGroup], axis: Axis) -> tuple[ReportFigure, ...]:
    """Return two figures for each group."""
    with style():
        return tuple(figure for place, found in enumerate(groups) for figure in _draw_group(found, place, axis))


def _draw_group(found: JudgedGroup, place: int, axis: Axis) -> Iterator[ReportFigure]:
    number, label = place + 1 if place else "", f": {found.group.label}" if found.group.label else ""
    layers = list(dict.fromkeys(series.place.label for series in found.group.series))
    theory = " Bars across: theory." if any(item.slope.expected is not None for item in found.judged) else ""
    caption = (
        f"Exponent a of {axis.word}^a by layer, from input (top) to output, with simultaneous 95 % intervals over seeds.{theory} "
        "0: the statistic keeps its size."
    )
    panels = [_exponents(found, step) for step in found.group.steps]
    svg = draw_exponents(panels, layers, f"exponent of the {axis.word}")
    title = f"Exponents of the {axis.word}{label}"
    yield ReportFigure(f"exponents{number}", title, caption, f"Exponents of {len(layers)} layers with intervals", svg)
    dashed = " Dashed: theory; that of gradients is drawn through the mean of the smallest." if theory else ""
    caption = (
        f"Each statistic against the {axis.word}, both axes logarithmic. Lines: mean over seeds in one layer, from input (dark) "
        f"to output (light); dots: runs.{dashed}"
    )
    rows = [
        [_sizes(found.at(quantity, step), f"{SHORT[quantity]}, {when(step)}") for step in steps]
        for quantity, steps in _steps(found).items()
    ]
    alt = f"{', '.join(NAMES.values())} against {axis.word}, one line for each of {len(layers)} layers"
    yield ReportFigure(f"sizes{number}", f"Statistics against the {axis.word}{label}", caption, alt, draw_sizes(rows, axis.word))


def _steps(found: JudgedGroup) -> Mapping[Quantity, list[int]]:
    steps: dict[Quantity, list[int]] = {}
    for quantity, step in found.aspects:
        steps.setdefault(quantity, []).append(step)
    return steps


def _exponents(found: JudgedGroup, step: int) -> ExponentPanel:
    points = {
        SHORT[quantity]: [_point(item.slope) for item in found.at(quantity, step) if item.slope.exponent is not None]
        for quantity, at in found.aspects
        if at == step
    }
    return ExponentPanel(when(step), points)


def _point(slope: Slope) -> ExponentPoint:
    exponent = slope.exponent
    assert exponent is not None
    low, high = (math.nan if end is None else end for end in (exponent.low, exponent.high))
    expected = math.nan if slope.expected is None else slope.expected
    return ExponentPoint(slope.series.place.label, exponent.estimate, low, high, expected)


def _sizes(items: Sequence[Judged], title: str) -> SizePanel:
    lines = [_line(item.slope.series) for item in items if item.slope.exponent is not None]
    return SizePanel(title, lines)


def _line(series: Series) -> SizeLine:
    values = {size: [math.exp(log) for log in logs] for size, logs in series.logs.items()}
    expected = dict(series.expected)
    if expected and series.quantity == "gradient":  # theory's is relative to that of the logits, whose size it does not know
        first = min(series.logs)
        shift = sum(series.logs[first]) / len(series.logs[first]) - expected[first]
        expected = {size: log + shift for size, log in expected.items()}
    return SizeLine(series.place.label, values, {size: math.exp(log) for size, log in expected.items()})
