"""Which figures a study gets, and what is in them. Importing it imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from train.report import table_text
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.figures import curves as curve_figure
from train.report.figures.cost import ArmCost, draw_cost
from train.report.figures.forest import ForestRow, draw_forest
from train.report.figures.heat import HeatTable, draw_heat
from train.report.figures.interaction import MOST_PAIRS, Crossing, Mean, draw_interactions
from train.report.figures.style import ArmStyle, ReportFigure, arm_styles, style
from train.report.history import mean_curve
from train.report.metric import number
from train.report.signals import STATISTICS, arm_signals

MOST_ROWS, MOST_COLUMNS, MOST_POINTS = 60, 28, 40

CURVES = (
    ("accuracy/val", "validation accuracy", "accuracy_val"),
    ("loss/train", "training loss", "loss_train"),
)

FIGURES = frozenset({"differences", "interactions", "curves", "cost", *STATISTICS, *(f"curves_{name}" for _, _, name in CURVES)})
"""All names of figures that a report can have: those of an earlier one that it has no more are taken away."""


def draw_all(analysis: Analysis) -> tuple[ReportFigure, ...]:
    """In the order of the page; a figure that would be empty is not there."""
    found = arm_styles([(arm.id, arm.label, arm.is_baseline) for arm in analysis.ranked])
    makers: list[Callable[[Analysis, Mapping[str, ArmStyle]], Iterator[ReportFigure]]] = [
        _differences,
        _crossings,
        _curves,
        _signals,
        _costs,
    ]
    with style():
        return tuple(drawing for make in makers for drawing in make(analysis, found))


def extremes(arms: Sequence[Arm], most: int) -> tuple[list[Arm], str]:
    """Of many arms the baseline, the best and the worst, in their order, and a sentence that says so."""
    if len(arms) <= most:
        return list(arms), ""
    others = [arm for arm in arms if not arm.is_baseline]
    half = (most - 1) // 2
    kept = {arm.id for arm in [*others[:half], *others[-half:], *(arm for arm in arms if arm.is_baseline)]}
    chosen = [arm for arm in arms if arm.id in kept]
    return chosen, f" Of {len(arms)} arms the baseline, the {half} best and the {half} worst are drawn; the table has all."


def _differences(analysis: Analysis, found: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    compared = [arm for arm in analysis.ranked if arm.id in analysis.comparisons]
    arms, said = extremes(compared, MOST_ROWS)
    if not arms:
        return
    metric = analysis.metric
    scale = 100 if metric.is_share else 1
    rows = []
    for arm in arms:
        made = analysis.comparisons[arm.id]
        low, high = (math.nan if end is None else scale * end for end in (made.low, made.high))
        detail = f"{table_text.difference(metric, made.difference)}   n = {made.n}"
        rows.append(ForestRow(found[arm.id], scale * made.difference, low, high, detail))
    axis = f"difference to the baseline in {metric.name}" + (" (percentage points)" if metric.is_share else "")
    smallest = analysis.smallest_effect
    caption = (
        "Means of runs that ended, minus the baseline's, with simultaneous 95 % intervals: all of them hold together. A filled "
        "marker is an interval that excludes zero."
        + (" Shaded: smaller than the smallest effect that matters." if smallest else "")
        + said
    )
    listed = "; ".join(f"{row.look.label}: {row.detail.split('   ')[0]}" for row in rows[:12])
    svg = draw_forest(rows, axis, scale * smallest if smallest else None)
    yield ReportFigure("differences", "Differences to the baseline", caption, f"Differences with intervals. {listed}", svg)


def _crossings(analysis: Analysis, _: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    grid = analysis.grid
    if grid is None:
        return
    varied = [factor for factor, levels in analysis.study.factors.items() if len(levels) > 1]
    crossings = []
    for first, second in combinations(varied, 2):
        means = {
            (mean.levels[first], mean.levels[second]): Mean(mean.mean, mean.low, mean.high)
            for mean in grid.means
            if set(mean.levels) == {first, second}
        }
        if means:
            levels = analysis.study.factors
            crossings.append(Crossing(first, second, levels[first], levels[second], means))
    if not crossings:
        return
    metric = analysis.metric
    said = f" {MOST_PAIRS} of {len(crossings)} pairs of factors are drawn." if len(crossings) > MOST_PAIRS else ""
    caption = (
        "Means of every combination of levels, with the 95 % interval of each mean alone. Where lines run parallel, the effect "
        "of one factor does not depend on the other." + said
    )
    svg = draw_interactions(crossings, metric.name, metric.is_share)
    yield ReportFigure("interactions", "Interactions", caption, f"Interaction plots of {', '.join(varied)}", svg)


def _curves(analysis: Analysis, found: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    charts = [chart for tag, title, _ in CURVES if (chart := _chart(analysis, found, tag, title)) is not None]
    if not charts:
        return
    caption = "Every run thin, the mean of the runs that ended strong. A cross is where a run broke off."
    if len(analysis.study.arms) <= curve_figure.TOGETHER:
        names = " and ".join(chart.title for chart in charts)
        svg = curve_figure.draw_together(charts)
        yield ReportFigure("curves", "Learning curves", caption, f"Learning curves: {names} over epochs, for each arm", svg)
        return
    files = {title: name for _, title, name in CURVES}
    for chart in charts:
        _, said = extremes(analysis.ranked, curve_figure.MOST_PANELS)
        dashed = f"{caption} Dashed: the baseline's mean.{said}"
        title = f"Learning curves: {chart.title}"
        yield ReportFigure(
            f"curves_{files[chart.title]}",
            title,
            dashed,
            f"{chart.title} over epochs, a panel per arm",
            curve_figure.draw_apart(chart),
        )


def _chart(analysis: Analysis, found: Mapping[str, ArmStyle], tag: str, title: str) -> curve_figure.Chart | None:
    arms, _ = extremes(analysis.ranked, curve_figure.MOST_PANELS)
    drawn = []
    for arm in arms:
        curves = [(run, analysis.history(run).curves.get(tag)) for run in arm.runs]
        known = [(run, curve) for run, curve in curves if curve is not None]
        lines = [curve_figure.CurveLine(curve.epochs, curve.values, run.state == "done") for run, curve in known]
        together = mean_curve([curve for run, curve in known if run.state == "done"])
        mean = [(epoch, sum(values) / len(values)) for _, epoch, values in together]
        drawn.append(curve_figure.ArmCurves(found[arm.id], lines, mean))
    if not any(arm.lines for arm in drawn):
        return None
    return curve_figure.Chart(title, tag.startswith("accuracy/"), drawn)


def _signals(analysis: Analysis, found: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, said = extremes([arm for arm in analysis.ranked if arm.runs], MOST_COLUMNS)
    for statistic, title in STATISTICS.items():
        signal = arm_signals(analysis, arms, statistic)
        if signal is None:
            continue
        first, last = (np.array([side[arm.id] for arm in arms]).T for side in (signal.first, signal.last))
        table = HeatTable(
            f"std of the {'activations' if 'activation' in statistic else 'gradients'}",
            signal.layers,
            [found[arm.id] for arm in arms],
            first,
            last,
        )
        caption = (
            "Layers from the input (top) to the output, arms side by side, one logarithmic scale for both maps: before the first "
            f"update, and at the last look, of runs that ended.{said}"
        )
        alt = f"Heat maps of the {title}, {len(signal.layers)} layers by {len(arms)} arms, at initialisation and at the end"
        yield ReportFigure(statistic, f"Signal: {title}", caption, alt, draw_heat(table))


def _costs(analysis: Analysis, found: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, said = extremes([arm for arm in analysis.ranked if analysis.valued(arm)], MOST_POINTS)
    costs = []
    for arm in arms:
        pairs = [(number(run.summary.get("time_s")), analysis.value(run)) for run in analysis.valued(arm)]
        pairs = [(time, value) for time, value in pairs if math.isfinite(time)]
        if pairs:
            costs.append(ArmCost(found[arm.id], [time for time, _ in pairs], [value for _, value in pairs]))
    if not costs:
        return
    caption = (
        "Every run that ended small, the mean of an arm large, with its number in the table. Times are comparable as far as runs "
        f"had the same machine to themselves.{said}"
    )
    svg = draw_cost(costs, analysis.metric.name, analysis.metric.is_share)
    yield ReportFigure(
        "cost", f"Time against {analysis.metric.name}", caption, f"Time of a run against {analysis.metric.name}", svg
    )
