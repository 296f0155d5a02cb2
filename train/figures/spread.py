"""Where the spread between runs comes from: shares of the variance, and the spread that each role makes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.style import BASELINE_COLOR, COLORS, GREY, in_percent, padded, rendered, shortened, tidy, width


@dataclass(frozen=True)
class SpreadRow:
    """A role, the rest, or all roles: (value, low, high) of its share of the variance and of a standard deviation, NaN if
    unknown. `is_all`: all roles vary."""

    label: str
    share: tuple[float, float, float]
    sd: tuple[float, float, float]
    is_all: bool = False


def draw_spread(rows: Sequence[SpreadRow], axis: str) -> bytes:
    """Draw shares above, standard deviations below, the rows from top to bottom. `axis`: the name of the latter."""
    shares = [row for row in rows if math.isfinite(row.share[0])]
    sds = [row for row in rows if math.isfinite(row.sd[0])]
    panels = [panel for panel in (shares, sds) if panel]
    sizes = [len(panel) + 1.5 for panel in panels]
    figure = Figure(figsize=(width(), 0.3 + 0.27 * sum(sizes)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), 1, height_ratios=sizes, squeeze=False)[:, 0], panels, strict=True):
        for place, row in enumerate(panel):
            found = row.share if panel is shares else row.sd
            _interval(axes, place, found, BASELINE_COLOR if row.is_all else COLORS[0])
        axes.set_ylim(len(panel) - 0.4, -0.6)
        axes.set_yticks(range(len(panel)), [shortened(row.label, 24) for row in panel])
        axes.tick_params(axis="y", length=0)
        tidy(axes, "x")
        if panel is shares:
            axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set_xlim(-0.02, 1.02)
            in_percent(axes.xaxis)
            axes.set_xlabel("share of the variance")
        else:
            axes.set_xlim(0, padded(0, max(row.sd[2] for row in sds))[1])
            axes.set_xlabel(axis)
    return rendered(figure)


def _interval(axes: Axes, place: int, found: tuple[float, float, float], color: str) -> None:
    value, low, high = found
    axes.plot([low, high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot([low, high], [place, place], "|", color=color, markersize=7)
    axes.plot([value], [place], "o", color=color, markersize=6)
