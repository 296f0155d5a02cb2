"""Selects the figures of a study and prepares their data. Importing this module imports matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from train.figures.classes import draw_classes
from train.figures.cost import ArmCost, draw_cost
from train.figures.forest import ForestRow, draw_forest
from train.figures.heat_table import draw_heat
from train.figures.interaction import MOST_PAIRS, Crossing, draw_interactions
from train.figures.rates import RateRow, draw_rates
from train.figures.style import WIDTH_IN, ArmStyle, Kind, ReportFigure, arm_styles, style
from train.report import table_text
from train.report.analysis import Analysis, varied_factors
from train.report.arms import Arm
from train.report.contracts import Effect
from train.report.curve_data import CURVES, draw_curves
from train.report.history import SIGNALS
from train.report.metric import as_float
from train.report.selection import extremes, spread_out
from train.tags import join, layers_of

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
    layers = tuple(dict.fromkeys(layers_of(statistic, dict.fromkeys(tag for signal in signals for tag in signal))))
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

MOST_MARKERS = 50
"""Of the runs of one arm in the figure of costs."""

FIGURES = frozenset(
    {"differences", "rates", "interactions", "curves", "cost", "classes", *SIGNALS, *(f"curves_{name}" for _, _, name in CURVES)}
)
"""All figure names that a report can have. A new report deletes the figures of an earlier one that it no longer has."""


def draw_all(
    analysis: Analysis, width_in: float = WIDTH_IN, kind: Kind = "svg", tex: str = "xelatex"
) -> tuple[ReportFigure, ...]:
    """Draw all figures in the order of the page; figures without data are omitted. The arguments are those of `style`."""
    styles = arm_styles([(arm.id, analysis.study.labels[arm.id], arm.is_baseline) for arm in analysis.ranked])
    drawers: list[Callable[[Analysis, Mapping[str, ArmStyle]], Iterator[ReportFigure]]] = [
        _differences,
        _rates,
        _crossings,
        draw_curves,
        _signals,
        _costs,
        _classes,
    ]
    with style(width_in, kind, tex):
        return tuple(figure for draw in drawers for figure in draw(analysis, styles))


def _differences(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    compared = [arm for arm in analysis.ranked if arm.id in analysis.comparisons]
    arms, selection = extremes(compared, MOST_ROWS)
    if not arms:
        return
    metric = analysis.metric
    scale = metric.scale
    rows = []
    for arm in arms:
        comparison = analysis.comparisons[arm.id]
        low, high = (math.nan if end is None else scale * end for end in (comparison.low, comparison.high))
        detail = f"{table_text.difference(metric, comparison.difference)}   n = {comparison.n}"
        rows.append(ForestRow(styles[arm.id], scale * comparison.difference, low, high, detail))
    axis = f"difference to the baseline in {metric.name}" + (" (percentage points)" if metric.is_share else "")
    smallest = analysis.wording.smallest_effect
    lower = "Lower is better. " if metric.higher_is_better is False else ""
    caption = (
        "Mean of the runs that trained minus the baseline's mean, with simultaneous 95 % intervals: all hold jointly. "
        f"{lower}A filled marker means that the interval excludes zero; the claims tell which arms are comparable."
        + (" Shaded: smaller than the smallest effect of interest." if smallest else "")
        + selection
    )
    summary = "; ".join(f"{row.style.label}: {row.detail.split('   ')[0]}" for row in rows[:12])
    svg = draw_forest(rows, axis, scale * smallest if smallest else None)
    yield ReportFigure("differences", "Differences to the baseline", caption, f"Differences with intervals. {summary}", svg)


def _rates(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    """Yield the rate of runs that trained, or of those that diverged where nothing tells whether the others trained.

    Nothing where all runs of all arms trained.
    """
    arms, selection = extremes([arm for arm in analysis.ranked if analysis.samples[arm.id].ended], MOST_ROWS)
    if not any(sample.diverged or sample.untrained for sample in analysis.samples.values()):
        return
    trained = {arm.id: analysis.training(arm) for arm in arms}
    known = {name: rate for name, rate in trained.items() if rate is not None}
    what, rates = ("trained", known) if len(known) == len(arms) else ("diverged", analysis.rates)
    rows = [
        RateRow(styles[arm.id], rate.count / rate.total, rate.low, rate.high, f"{rate.count} of {rate.total}")
        for arm in arms
        if (rate := rates[arm.id]).total
    ]
    caption = (
        f"Runs that {what}, of those with a result, with Wilson's 95 % interval for each arm alone, as in the table.{selection}"
    )
    summary = "; ".join(f"{row.style.label}: {row.detail}" for row in rows[:12])
    svg = draw_rates(rows, f"runs that {what}")
    yield ReportFigure("rates", f"Runs that {what}", caption, f"Rates with intervals. {summary}", svg)


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
        "Mean of every combination of levels in which every run trained, over the other factors, with the individual 95 % "
        "interval of each mean. Where the effect of one factor does not depend on the other, the lines are parallel but for "
        "chance." + selection
    )
    svg = draw_interactions(crossings, metric.name, metric.is_share)
    yield ReportFigure("interactions", "Interactions", caption, f"Interaction plots of {', '.join(varied)}", svg)


def _signals(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, selection = extremes([arm for arm in analysis.ranked if arm.runs], MOST_COLUMNS)
    caption = (
        "Rows: layers from input (top) to output. Columns: arms. Both maps share one logarithmic scale. Left: before the "
        "first update, mean of all runs. Right: last observation, mean of the completed runs, or of those that diverged "
        f"where none completed.{selection}"
    )
    for statistic, title in SIGNALS.items():
        signal = arm_signals(analysis, arms, statistic)
        if signal is None:
            continue
        first, last = (np.array([values[arm.id] for arm in arms]).T for values in (signal.first, signal.last))
        name = f"std of the {'activations' if 'activation' in statistic else 'gradients'}"
        svg = draw_heat(name, signal.layers, [styles[arm.id] for arm in arms], first, last)
        alt = f"Heat maps of the {title}, {len(signal.layers)} layers by {len(arms)} arms, at initialisation and at the end"
        yield ReportFigure(statistic, f"Signal: {title}", caption, alt, svg)
        caption = "As above."


def _costs(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    arms, selection = extremes([arm for arm in analysis.ranked if analysis.runs_with_value(arm)], MOST_POINTS)
    costs = []
    for arm in arms:
        pairs = [(as_float(run.summary.get("time_s")), analysis.value(run)) for run in analysis.averaged_runs(arm)]
        pairs = [(time, value) for time, value in pairs if math.isfinite(time) and math.isfinite(value)]
        if pairs:
            mean = sum(time for time, _ in pairs) / len(pairs), sum(value for _, value in pairs) / len(pairs)
            costs.append(ArmCost(styles[arm.id], spread_out(sorted(pairs), MOST_MARKERS), mean, len(pairs)))
    if not costs:
        return
    markers = f" (of an arm with more than {MOST_MARKERS}, so many, evenly from the shortest to the longest)"
    caption = (
        f"Small markers: runs that trained{markers if any(cost.runs > MOST_MARKERS for cost in costs) else ''}. Large markers: "
        "mean of an arm, with its number in the table. Times are comparable only where each run had the same machine to itself."
        f"{selection}"
    )
    svg = draw_cost(costs, analysis.metric.name, analysis.metric.is_share)
    yield ReportFigure(
        "cost", f"Time against {analysis.metric.name}", caption, f"Time of a run against {analysis.metric.name}", svg
    )


def _classes(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    found = analysis.classes
    arms, selection = extremes([arm for arm in analysis.ranked if arm.id in found.arms], MOST_COLUMNS)
    if not arms:
        return
    cells = {(effect.name, effect.arm): effect for effect in found.effects}
    largest = {name: max(abs(cells[name, arm.id].difference) for arm in arms) for name in found.names}
    kept = set(sorted(found.names, key=lambda name: -largest[name])[:MOST_ROWS])
    names = [name for name in found.names if name in kept]
    table = [[cells[name, arm.id] for arm in arms] for name in names]
    points, clear = (np.array([[get(effect) for effect in row] for row in table]) for get in (_points, _is_clear))
    rest = f" Of {len(found.names)} classes those with the largest differences are drawn." if len(found.names) > MOST_ROWS else ""
    caption = (
        "Accuracy of each class minus the baseline's, mean of the runs that trained. A frame: the interval excludes zero; the "
        f"{found.intervals} intervals, of all classes and arms, hold jointly.{rest}{selection}"
    )
    alt = f"Heat map of the differences to the baseline, {len(names)} classes by {len(arms)} arms"
    yield ReportFigure(
        "classes", "Differences by class", caption, alt, draw_classes(names, [styles[arm.id] for arm in arms], points, clear)
    )


def _points(effect: Effect) -> float:
    return 100 * effect.difference


def _is_clear(effect: Effect) -> bool:
    return effect.excludes_zero
