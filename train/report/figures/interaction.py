"""Does the effect of one factor depend on the level of another? Parallel lines say no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from train.report.figures.style import (
    BASELINE_COLOR,
    COLORS,
    DASHES,
    MARKERS,
    WIDTH_IN,
    percent,
    shortened,
    tidy,
    to_svg,
    wrapped,
)

MOST_PAIRS = 6


@dataclass(frozen=True)
class Mean:
    """Of one combination of levels; `low` and `high` None where there is no interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Crossing:
    """Levels of `first` along the axis, one line for each level of `second`, its baseline's first."""

    first: str
    second: str
    first_levels: Sequence[str]
    second_levels: Sequence[str]
    means: Mapping[tuple[str, str], Mean]


def draw_interactions(crossings: Sequence[Crossing], metric: str, share: bool) -> bytes:
    """A chart for each pair of factors, at most `MOST_PAIRS`."""
    shown = crossings[:MOST_PAIRS]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH_IN if columns > 1 else 6.2, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        _draw(axes, shown[place])
        if share:
            axes.yaxis.set_major_formatter(FuncFormatter(percent))
        if place % columns == 0:
            axes.set_ylabel(metric)
    return to_svg(figure)


def _draw(axes: Axes, crossing: Crossing) -> None:
    count = len(crossing.second_levels)
    for i, second in enumerate(crossing.second_levels):
        color = BASELINE_COLOR if i == 0 else COLORS[(i - 1) % len(COLORS)]
        shift = (i - (count - 1) / 2) * min(0.08, 0.5 / count)
        known = [
            (x, crossing.means[first, second])
            for x, first in enumerate(crossing.first_levels)
            if (first, second) in crossing.means
        ]
        xs, ys = [x + shift for x, _ in known], [mean.mean for _, mean in known]
        axes.plot(
            xs, ys, color=color, linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], label=shortened(second, 24)
        )
        for x, (_, mean) in zip(xs, known, strict=True):
            if mean.low is not None and mean.high is not None:
                axes.plot([x, x], [mean.low, mean.high], color=color, linewidth=1, alpha=0.8)
    room = 14 if len(crossing.first_levels) <= 5 else 9
    axes.set_xticks(range(len(crossing.first_levels)), [wrapped(level, room) for level in crossing.first_levels])
    axes.set_xlabel(shortened(crossing.first, 40))
    axes.set_xlim(-0.5, len(crossing.first_levels) - 0.5)
    axes.legend(title=shortened(crossing.second, 30), loc="best", title_fontsize=8, handlelength=3)
    tidy(axes)
