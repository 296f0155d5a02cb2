"""Differences to the baseline against the budget, one line per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from train.figures.style import GREY, ArmStyle, rendered, tidy, width


@dataclass(frozen=True)
class BudgetLine:
    """An arm. `points`: (difference, low, high) at each budget, NaN where unknown."""

    style: ArmStyle
    points: tuple[tuple[float, float, float], ...]


def draw_budgets(
    lines: Sequence[BudgetLine], budgets: Sequence[str], smallest_effect: float | None, axis: str, unit: str
) -> bytes:
    """Draw the lines side by side at each budget. `axis`: the name of the budget; `unit`: that of the differences."""
    figure = Figure(figsize=(width(), 3.2), layout="constrained")
    axes = figure.add_subplot()
    if smallest_effect:
        axes.axhspan(-smallest_effect, smallest_effect, color="0.93", zorder=0)
    axes.axhline(0, color=GREY, linewidth=1)
    for number, line in enumerate(lines):
        shift = 0.0 if len(lines) == 1 else 0.3 * (number / (len(lines) - 1) - 0.5)
        places = [place + shift for place in range(len(budgets))]
        color = line.style.color
        axes.plot(places, [value for value, _, _ in line.points], color=color, linewidth=1, linestyle=line.style.dashes)
        for place, (value, low, high) in zip(places, line.points, strict=True):
            clear = math.isfinite(low) and (low > 0 or high < 0)
            axes.plot([place, place], [low, high], color=color, linewidth=1.8, solid_capstyle="butt")
            fill = color if clear else "white"
            axes.plot([place], [value], line.style.marker, color=color, markerfacecolor=fill, markersize=6.5)
        axes.plot([], [], line.style.marker, color=color, linestyle=line.style.dashes, label=line.style.named())
    axes.set_xticks(range(len(budgets)), list(budgets))
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    axes.set_xlabel(axis)
    axes.set_ylabel(f"difference to the baseline{unit}")
    axes.legend(loc="best")
    tidy(axes)
    return rendered(figure)
