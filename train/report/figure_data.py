"""Selects the figures of a study and prepares their data. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from train.figures import curves as curve_figure
from train.figures.cost import ArmCost, draw_cost
from train.figures.forest import ForestRow, draw_forest
from train.figures.heat_table import draw_heat
from train.figures.interaction import MOST_PAIRS, Crossing, draw_interactions
from train.figures.style import ArmStyle, ReportFigure, arm_styles, style
from train.report import table_text
from train.report.analysis import Analysis, varied_factors
from train.report.arms import Arm
from train.report.history import mean_curve
from train.report.metric import as_float
from train.tags import STATISTICS, join, layers_of, split

SIGNALS = {statistic.name: statistic.signal for statistic in STATISTICS if statistic.signal}
"""Statistic -> what it is in words, for those that a report draws."""
NOT_MEASURED = -math.inf


@dataclass(frozen=True)
class ArmSignals:
    """One statistic in every layer of every arm.

    `first` and `last`: arm id -> one value per layer. NaN where the signal of any run was infinite or NaN; `NOT_MEASURED` where
    no run has the layer or none was observed.
    """

    statistic: str
    layers: tuple[str, ...]
    first: Mapping[str, tuple[float, ...]]
    last: Mapping[str, tuple[float, ...]]


def arm_signals(analysis: Analysis, arms: Sequence[Arm], statistic: str) -> ArmSignals | None:
    """Average a statistic over the runs of each arm, layer by layer; None where nothing was measured.

    At initialisation all runs count. At the end the done runs count, or the diverged ones where no run is done.
    """
    first = {arm.id: [analysis.history(run).first_signal for run in arm.runs] for arm in arms}
    last = {arm.id: [analysis.history(run).last_signal for run in arm.runs_in("done") or arm.runs_in("diverged")] for arm in arms}
    signals = [signal for by_arm in (first, last) for arm_runs in by_arm.values() for signal in arm_runs]
    layers = tuple(dict.fromkeys(layer for signal in signals for layer in layers_of(statistic, signal)))
    if not layers:
        return None
    tags = [join(statistic, layer) for layer in layers]
    return ArmSignals(statistic, layers, _means(first, tags), _means(last, tags))


def _means(signals: Mapping[str, Sequence[Mapping[str, float]]], tags: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {arm: tuple(_mean([signal[tag] for signal in runs if tag in signal]) for tag in tags) for arm, runs in signals.items()}


def _mean(values: Sequence[float]) -> float:
    if not values:
        return NOT_MEASURED
    return sum(values) / len(values) if all(math.isfinite(value) for value in values) else math.nan


MOST_ROWS, MOST_COLUMNS, MOST_POINTS = 60, 28, 40

CURVES = (
    ("accuracy/val", "validation accuracy", "accuracy_val"),
    ("loss/train", "training loss", "loss_train"),
)

FIGURES = frozenset({"differences", "interactions", "curves", "cost", *SIGNALS, *(f"curves_{name}" for _, _, name in CURVES)})
"""All figure names that a report can have. A new report deletes the figures of an earlier one that it no longer has."""


def draw_all(analysis: Analysis) -> tuple[ReportFigure, ...]:
    """Draw all figures in the order of the page; figures without data are omitted."""
    styles = arm_styles([(arm.id, arm.label, arm.is_baseline) for arm in analysis.ranked])
    drawers: list[Callable[[Analysis, Mapping[str, ArmStyle]], Iterator[ReportFigure]]] = [
        _differences,
        _crossings,
        _curves,
        _signals,
        _costs,
    ]
    with style():
        return tuple(figure for draw in drawers for figure in draw(analysis, styles))


def extremes(arms: Sequence[Arm], most: int) -> tuple[list[Arm], str]:
    """Return at most `most` arms (the baseline, the best and the worst, in order), and a sentence for the caption.

    The sentence is empty if all arms fit.
    """
    if len(arms) <= most:
        return list(arms), ""
    others = [arm for arm in arms if not arm.is_baseline]
    half = (most - 1) // 2
    chosen_ids = {arm.id for arm in [*others[:half], *others[-half:], *(arm for arm in arms if arm.is_baseline)]}
    chosen = [arm for arm in arms if arm.id in chosen_ids]
    return chosen, f" Of {len(arms)} arms the baseline, the {half} best and the {half} worst are drawn; the table lists all."


def _differences(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    compared = [arm for arm in analysis.ranked if arm.id in analysis.comparisons]
    arms, selection = extremes(compared, MOST_ROWS)
    if not arms:
        return
    metric = analysis.metric
    scale = 100 if metric.is_share else 1
    rows = []
    for arm in arms:
        comparison = analysis.comparisons[arm.id]
        low, high = (math.nan if end is None else scale * end for end in (comparison.low, comparison.high))
        detail = f"{table_text.difference(metric, comparison.difference)}   n = {comparison.n}"
        rows.append(ForestRow(styles[arm.id], scale * comparison.difference, low, high, detail))
    axis = f"difference to the baseline in {metric.name}" + (" (percentage points)" if metric.is_share else "")
    smallest = analysis.wording.smallest_effect
    caption = (
        "Mean of the runs that trained minus the baseline's mean, with simultaneous 95 % intervals: all hold jointly. "
        "A filled marker means that the interval excludes zero."
        + (" Shaded: smaller than the smallest effect that matters." if smallest else "")
        + selection
    )
    summary = "; ".join(f"{row.style.label}: {row.detail.split('   ')[0]}" for row in rows[:12])
    svg = draw_forest(rows, axis, scale * smallest if smallest else None)
    yield ReportFigure("differences", "Differences to the baseline", caption, f"Differences with intervals. {summary}", svg)


def _crossings(analysis: Analysis, _: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    grid = analysis.grid
    if grid is None:
        return
    varied = varied_factors(analysis.study)
    crossings = []
    for first, second in combinations(varied, 2):
        means = {
            (mean.levels[first], mean.levels[second]): (mean.mean, mean.low, mean.high)
            for mean in grid.means
            if set(mean.levels) == {first, second}
        }
        if means:
            crossings.append(Crossing(first, second, varied[first], varied[second], means))
    if not crossings:
        return
    metric = analysis.metric
    selection = f" {MOST_PAIRS} of {len(crossings)} pairs of factors are drawn." if len(crossings) > MOST_PAIRS else ""
    caption = (
        "Mean of every combination of levels, with the individual 95 % interval of each mean. Parallel lines mean that the "
        "effect of one factor does not depend on the other." + selection
    )
    svg = draw_interactions(crossings, metric.name, metric.is_share)
    yield ReportFigure("interactions", "Interactions", caption, f"Interaction plots of {', '.join(varied)}", svg)


def _curves(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    charts = [chart for tag, title, _ in CURVES if (chart := _chart(analysis, styles, tag, title)) is not None]
    if not charts:
        return
    caption = "Thin lines: single runs. Thick lines: mean of the runs that trained. A cross marks where a run ended early."
    if len(analysis.study.arms) <= curve_figure.TOGETHER:
        names = " and ".join(chart.title for chart in charts)
        svg = curve_figure.draw_together(charts)
        yield ReportFigure("curves", "Learning curves", caption, f"Learning curves: {names} over epochs, for each arm", svg)
        return
    files = {title: name for _, title, name in CURVES}
    for chart in charts:
        _, selection = extremes(analysis.ranked, curve_figure.MOST_PANELS)
        panel_caption = f"{caption} Dashed: the baseline's mean.{selection}"
        title = f"Learning curves: {chart.title}"
        yield ReportFigure(
            f"curves_{files[chart.title]}",
            title,
            panel_caption,
            f"{chart.title} over epochs, one panel per arm",
            curve_figure.draw_panels(chart),
        )


def _chart(analysis: Analysis, styles: Mapping[str, ArmStyle], tag: str, title: str) -> curve_figure.Chart | None:
    arms, _ = extremes(analysis.ranked, curve_figure.MOST_PANELS)
    arm_curves = []
    for arm in arms:
        curves = [(run, analysis.history(run).curves.get(tag)) for run in arm.runs]
        recorded = [(run, curve) for run, curve in curves if curve is not None]
        lines = [curve_figure.CurveLine(curve.epochs, curve.values, run.state == "done") for run, curve in recorded]
        averaged = {run.folder for run in analysis.averaged_runs(arm)}
        shared = mean_curve([curve for run, curve in recorded if run.folder in averaged])
        mean = [(epoch, sum(values) / len(values)) for _, epoch, values in shared]
        arm_curves.append(curve_figure.ArmCurves(styles[arm.id], lines, mean))
    if not any(arm.lines for arm in arm_curves):
        return None
    return curve_figure.Chart(title, split(tag)[0] == "accuracy", arm_curves)


def _signals(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, selection = extremes([arm for arm in analysis.ranked if arm.runs], MOST_COLUMNS)
    for statistic, title in SIGNALS.items():
        signal = arm_signals(analysis, arms, statistic)
        if signal is None:
            continue
        first, last = (np.array([values[arm.id] for arm in arms]).T for values in (signal.first, signal.last))
        name = f"std of the {'activations' if 'activation' in statistic else 'gradients'}"
        svg = draw_heat(name, signal.layers, [styles[arm.id] for arm in arms], first, last)
        caption = (
            "Rows: layers from input (top) to output. Columns: arms. Both maps share one logarithmic scale. Left: before the "
            f"first update. Right: last observation of the completed runs.{selection}"
        )
        alt = f"Heat maps of the {title}, {len(signal.layers)} layers by {len(arms)} arms, at initialisation and at the end"
        yield ReportFigure(statistic, f"Signal: {title}", caption, alt, svg)


def _costs(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, selection = extremes([arm for arm in analysis.ranked if analysis.runs_with_value(arm)], MOST_POINTS)
    costs = []
    for arm in arms:
        pairs = [(as_float(run.summary.get("time_s")), analysis.value(run)) for run in analysis.averaged_runs(arm)]
        pairs = [(time, value) for time, value in pairs if math.isfinite(time) and math.isfinite(value)]
        if pairs:
            costs.append(ArmCost(styles[arm.id], [time for time, _ in pairs], [value for _, value in pairs]))
    if not costs:
        return
    caption = (
        "Small markers: runs that trained. Large markers: mean of an arm, with its number in the table. Times are comparable "
        f"only where each run had the same machine to itself.{selection}"
    )
    svg = draw_cost(costs, analysis.metric.name, analysis.metric.is_share)
    yield ReportFigure(
        "cost", f"Time against {analysis.metric.name}", caption, f"Time of a run against {analysis.metric.name}", svg
    )
