"""Interaction plots: does the effect of one factor depend on the level of another? Parallel lines mean no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import (
    BASELINE_COLOR,
    COLORS,
    DASHES,
    MARKERS,
    in_percent,
    rendered,
    shortened,
    tidy,
    width,
    wrapped,
)

MOST_PAIRS = 6


@dataclass(frozen=True)
class Crossing:
    """One chart: the levels of `first` along the axis, one line for each level of `second`, the baseline level first.

    `means`: levels -> the mean, and the ends of its interval, None without one.
    """

    first: str
    second: str
    first_levels: Sequence[str]
    second_levels: Sequence[str]
    means: Mapping[tuple[str, str], tuple[float, float | None, float | None]]


def draw_interactions(crossings: Sequence[Crossing], metric: str, share: bool) -> bytes:
    """Draw a chart for each pair of factors, at most `MOST_PAIRS`."""
    drawn = crossings[:MOST_PAIRS]
    figure = Figure(figsize=(width(), 3.2 * len(drawn)), layout="constrained")
    for axes, crossing in zip(figure.subplots(len(drawn), squeeze=False, sharey=True)[:, 0], drawn, strict=True):
        _draw(axes, crossing)
        if share:
            in_percent(axes.yaxis)
        axes.set_ylabel(metric)
    return rendered(figure)


def _draw(axes: Axes, crossing: Crossing) -> None:
    count = len(crossing.second_levels)
    for i, second in enumerate(crossing.second_levels):
        color = BASELINE_COLOR if i == 0 else COLORS[(i - 1) % len(COLORS)]
        shift = (i - (count - 1) / 2) * min(0.08, 0.5 / count)
        points = [
            (x, crossing.means[first, second])
            for x, first in enumerate(crossing.first_levels)
            if (first, second) in crossing.means
        ]
        xs, ys = [x + shift for x, _ in points], [mean for _, (mean, _, _) in points]
        axes.plot(
            xs, ys, color=color, linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], label=shortened(second, 24)
        )
        for x, (_, (_, low, high)) in zip(xs, points, strict=True):
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color=color, linewidth=1, alpha=0.8)
    characters = max(7, round(13 * width() / (len(crossing.first_levels) + 1)))
    axes.set_xticks(range(len(crossing.first_levels)), [wrapped(level, characters) for level in crossing.first_levels])
    axes.set_xlabel(shortened(crossing.first, 40))
    axes.set_xlim(-0.5, len(crossing.first_levels) - 0.5)
    axes.legend(title=shortened(crossing.second, 30), loc="best", title_fontsize=8, handlelength=3)
    tidy(axes)
