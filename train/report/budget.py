"""Whether a verdict holds with more epochs or more data: the page of `report.analysis=budget`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.figures.budget import BudgetLine, draw_budgets
from train.figures.style import ReportFigure, arm_styles, style
from train.naming import levels_text
from train.report import metric as metrics
from train.report import table_text
from train.report.arms import Arm, Study
from train.report.budget_text import BUDGETS, budget_text, remark, short_budget
from train.report.contracts import SMALLEST_EFFECT, Sample, ends
from train.report.findings import AnalysisKind, Conclusion, Findings, Row, Table
from train.report.history import History
from train.report.metric import Metric
from train.report.options import ReportOptions
from train.report.outcome import outcomes
from train.report.run_threats import missing_runs, with_run_threats
from train.report.samples import build_sample
from train.report.statistics.budgets import BudgetCurve, budget_curves
from train.report.tuning_text import Chosen, tuning_paragraphs, tuning_threats
from train.store.manifest import Manifest
from train.store.overrides import dotted_key

FIGURE = "budget"


@dataclass(frozen=True)
class _Plan:
    """The arms of a study by budget. `factor`: the axis of the budget; `cells`: name -> its arms, in the order of `budgets`, the
    baseline's first."""

    factor: str
    budgets: tuple[str, ...]
    cells: Mapping[str, tuple[Arm, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The budgets in words."""
        return tuple(budget_text(dotted_key(self.factor), budget) for budget in self.budgets)


def analyse(study: Study, histories: Mapping[Path, History], options: ReportOptions) -> Findings:
    """Compare every arm with the baseline at each budget. UsageError for runs without several budgets."""
    metric = Metric(options.metric)
    metrics.check_metric(metric, study.runs, histories)
    plan = _plan(study)
    found = outcomes(study.runs, metric, histories)
    cells = {name: [build_sample(arm, metric, histories, found) for arm in arms] for name, arms in plan.cells.items()}
    named = {
        name: [_named(sample, name, budget) for sample, budget in zip(cells[name], plan.names, strict=True)] for name in cells
    }
    curves = budget_curves(named)
    smallest = options.smallest_effect or (SMALLEST_EFFECT if metric.is_share else None)
    baseline = next(iter(cells))
    chosen = [(study.labels[arm.id], arm.choice) for arm in study.arms if arm.choice]
    return Findings(
        title=f"Whether the verdicts on {metric.name} hold at other budgets",
        conclusions=tuple(
            Conclusion(curve.arm, f"against {baseline}, from {plan.names[0]} to {plan.names[-1]}", (verdict,))
            for curve in curves
            if (verdict := remark(curve, plan.names, metric, smallest))
        ),
        tables=(_table(curves, plan, cells, metric, _tuning(study, chosen, metric)),),
        figures=tuple(_figures(curves, plan, metric, smallest)),
        threats=with_run_threats(
            [*missing_runs(study), *tuning_threats(study.tune, chosen, metric)],
            study,
            metric,
            smallest_effect=smallest or SMALLEST_EFFECT,
        ),
        header=(("Metric", f"{metric.name} ({metric.tag}) after the last step"), ("Budgets", ", ".join(plan.names))),
        numbers=tuple(_numbers(curves, plan, cells)),
    )


def _tuning(study: Study, chosen: Sequence[Chosen], metric: Metric) -> str:
    """Return how levels were chosen; empty without tuned keys."""
    return " ".join(tuning_paragraphs(study.tune, chosen, metric, study.tuning)) if study.tune else ""


def _named(sample: Sample, name: str, budget: str) -> Sample:
    return Sample(f"{name} at {budget}", **{key: value for key, value in vars(sample).items() if key != "arm"})


def _plan(study: Study) -> _Plan:
    """Return the arms by budget. UsageError unless one budget varies, and with it every arm."""
    varied = [factor for factor, levels in study.factors.items() if len(levels) > 1]
    factor = _budget_axis(varied)
    budgets = sorted({arm.levels[factor] for arm in study.arms}, key=float)
    cells: dict[str, dict[str, Arm]] = {}
    for arm in study.arms:  # the baseline first
        rest = {name: level for name, level in arm.levels.items() if name in varied and name != factor}
        cells.setdefault(levels_text(rest) or "defaults", {})[arm.levels[factor]] = arm
    incomplete = [name for name, arms in cells.items() if set(arms) != set(budgets)]
    if incomplete or len(cells) < 2:
        raise UsageError(_no_grid(incomplete[0] if incomplete else ""))
    return _Plan(factor, tuple(budgets), {name: tuple(arms[budget] for budget in budgets) for name, arms in cells.items()})


def _budget_axis(varied: Sequence[str]) -> str:
    """Return the axis of the budget. UsageError unless there is exactly one."""
    found = [factor for factor in varied if dotted_key(factor) in BUDGETS]
    if len(found) != 1:
        what = f"{' and '.join(found)} both are budgets" if found else "no budget varies"
        raise UsageError(
            f"report.analysis=budget: {what}. Give levels to one of {', '.join(BUDGETS)}, as in trainer.epochs=2,5,12."
        )
    return found[0]


def _no_grid(name: str) -> str:
    problem = f"{name} lacks some of the budgets" if name else "there is one arm at each budget, so nothing is compared"
    remedy = "Cross an axis with the budgets, as in norm=batch,none trainer.epochs=2,5,12, by sweep.design=grid."
    return f"report.analysis=budget: {problem}. {remedy}"


def _table(
    curves: Sequence[BudgetCurve], plan: _Plan, cells: Mapping[str, Sequence[Sample]], metric: Metric, tuning: str
) -> Table:
    unit = "points" if metric.is_share else ""
    columns = [("arm", ""), ("budget", ""), ("runs", "that trained"), ("mean", "%" if metric.is_share else "")]
    columns += [("difference", unit), ("95 % CI", "jointly"), ("adjusted p", "")]
    by_name = {curve.arm: curve for curve in curves}
    rows = []
    for name, arms in plan.cells.items():
        for place, (arm, sample) in enumerate(zip(arms, cells[name], strict=True)):
            point = by_name[name].points[place] if name in by_name else None
            values = sample.values
            mean = table_text.bare(metric, sum(values) / len(values)) if values else table_text.UNKNOWN
            effect = (
                (
                    table_text.difference(metric, point.difference),
                    table_text.interval(metric, point),
                    table_text.p_value(point.p_adjusted),
                )
                if point
                else (table_text.UNKNOWN, "", "")
            )
            level = (arm.choice.chosen.name if arm.choice else "",) if tuning else ()
            runs = f"{len(values)} of {len(values) + sample.diverged + sample.untrained + sample.failed}"
            rows.append(Row((name, plan.names[place], runs, mean, *effect, *level), point is not None and point.excludes_zero))
    note = "Differences are to the baseline at the same budget; with their changes, all intervals hold jointly."
    texts = frozenset({0, 1, 7}) if tuning else frozenset({0, 1})
    columns += [("tuned", "")] if tuning else []
    return Table("Differences by budget", tuple(columns), tuple(rows), f"{note} {tuning}".strip(), texts)


def _figures(curves: Sequence[BudgetCurve], plan: _Plan, metric: Metric, smallest: float | None) -> Iterator[ReportFigure]:
    baseline, *_ = plan.cells
    styles = arm_styles([(name, name, name == baseline) for name in plan.cells])
    scale = metric.scale
    lines = [BudgetLine(styles[curve.arm], tuple(ends(point, scale) for point in curve.points)) for curve in curves]
    unit = f" ({'points' if metric.is_share else metric.name})"
    caption = (
        f"Difference to {baseline} at the same budget, with 95 % intervals that hold jointly. Filled: the interval excludes 0."
        + (" Shaded: smaller than the smallest effect of interest." if smallest else "")
    )
    with style():
        key = dotted_key(plan.factor)
        ticks = [short_budget(key, budget) for budget in plan.budgets]
        svg = draw_budgets(lines, ticks, smallest and scale * smallest, key, unit)
    yield ReportFigure(FIGURE, "Differences against the budget", caption, f"Differences to {baseline} at each budget", svg)


NUMBERS = ("arm", "budget", "runs", "mean", "difference", "low", "high", "p_adjusted")


def _numbers(curves: Sequence[BudgetCurve], plan: _Plan, cells: Mapping[str, Sequence[Sample]]) -> Iterator[Sequence[Any]]:
    """Yield the rows of budget.csv; unknown values are empty."""
    yield NUMBERS
    by_name = {curve.arm: curve for curve in curves}
    for name, samples in cells.items():
        for place, sample in enumerate(samples):
            point = by_name[name].points[place] if name in by_name else None
            mean = sum(sample.values) / len(sample.values) if sample.values else ""
            effect = ("", "", "", "") if point is None else (point.difference, point.low, point.high, point.p_adjusted)
            yield (name, plan.budgets[place], len(sample.values), mean, *("" if value is None else value for value in effect))


def check(manifest: Manifest, configs: Mapping[str, Mapping[str, Any]]) -> None:  # noqa: ARG001
    """Raise UsageError for a plan without arms at several budgets."""
    tuned = set(manifest.tune)
    varied = [axis for axis, levels in manifest.axes.items() if len(set(levels)) > 1 and axis not in tuned]
    factor = _budget_axis(varied)
    if manifest.design != "grid" or varied == [factor]:
        raise UsageError(_no_grid("" if manifest.design == "grid" else f"with sweep.design={manifest.design}, an arm"))


BUDGET = AnalysisKind(analyse, check, figures=frozenset({FIGURE}))
