"""The analyses `width` and `depth`: from runs to conclusions, tables and figures; and the check of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.report.arms import Study
from train.report.findings import AnalysisKind, Findings
from train.report.history import History
from train.report.metric import Metric
from train.report.options import ReportOptions
from train.report.run_threats import missing_runs, with_run_threats
from train.report.scaling.measure import DEPTH, STATISTICS, WIDTH, Axis, groups_of, size_of
from train.report.scaling.sentences import conclusion, tables, threats
from train.report.scaling.verdict import JudgedGroup, judge_group
from train.store.manifest import Manifest
from train.store.overrides import dotted_key

COLUMNS = (
    "levels",
    "layer",
    "statistic",
    "step",
    "exponent",
    "low",
    "high",
    "judged",
    "judged_low",
    "judged_high",
    "theory",
    "verdict",
    "runs",
)


def analyse(study: Study, histories: Mapping[Path, History], options: ReportOptions, *, axis: Axis) -> Findings:
    """Return the findings on how the signal depends on the size of the network."""
    from train.report.scaling.figure_data import draw_groups  # imports matplotlib
    from train.report.scaling.slopes import slopes_of  # imports scipy

    groups = list(groups_of(study, histories, axis))
    judged = [judge_group(group, slopes, axis) for group, slopes in zip(groups, slopes_of(groups), strict=True)]
    return Findings(
        title=f"Does the signal keep its size as the {axis.word} grows?",
        conclusions=tuple(conclusion(found, axis) for found in judged),
        tables=tuple(table for found in judged for table in tables(found, axis)),
        figures=draw_groups(judged[:MOST_GROUPS], axis),
        threats=with_run_threats([*missing_runs(study), *threats(judged, axis)], study, Metric(options.metric)),
        notes=tuple(_notes(axis, groups=len(groups))),
        numbers=(COLUMNS, *(row for found in judged for row in _numbers(found))),
    )


def _notes(axis: Axis, groups: int) -> Iterator[str]:
    if not groups:
        yield f"no runs differ in {axis.key} and have the records of their layers (observe=basic), so there is nothing to compare"


def _numbers(found: JudgedGroup) -> Iterator[Sequence[Any]]:
    for item in found.judged:
        slope = item.slope
        series = slope.series
        numbers = [
            "" if value is None else repr(value)
            for exponent in (slope.exponent, slope.judged)
            for value in ((exponent.estimate, exponent.low, exponent.high) if exponent else (None,) * 3)
        ]
        expected = "" if slope.expected is None else repr(slope.expected)
        yield (found.group.label, series.place.label, series.quantity, series.step, *numbers, expected, item.verdict, series.runs)


def check(manifest: Manifest, configs: Mapping[str, Mapping[str, Any]], *, axis: Axis) -> None:
    """Refuse a plan without networks of several sizes, or without records of their layers. UsageError names the remedy."""
    option = f"report.analysis={axis.word}"
    for config in configs.values():
        _check_config(config, option, axis)
    levels = next((levels for name, levels in manifest.axes.items() if dotted_key(name) == axis.key), ())
    sizes = {size for level in levels if math.isfinite(size := size_of(level))}
    if len(sizes) < 2:
        found = f"{axis.key} has {len(sizes)} levels" if levels else f"{axis.key} is not varied"
        raise UsageError(f"{option}: {found}, and an exponent needs at least two. Give several, as in {axis.key}=16,32,64.")


def _check_config(config: Mapping[str, Any], option: str, axis: Axis) -> None:
    model, observe = config.get("model"), config.get("observe")
    setting = axis.key.partition(".")[2]
    if isinstance(model, Mapping) and setting not in model:
        name = str(model.get("_target_", "")).rpartition(".")[2]
        raise UsageError(
            f"{option}: model={name} has no setting {axis.key}, so that nothing can grow. Choose a model that has one."
        )
    if isinstance(observe, Mapping) and not observe.get("every"):
        raise UsageError(f"{option}: observe.every=0 measures no layer during training. Use observe=basic.")


MOST_GROUPS = 6
FIGURES = frozenset(f"{kind}{number}" for kind in ("exponents", "sizes") for number in ("", *range(2, MOST_GROUPS + 1)))
WIDTH_ANALYSIS, DEPTH_ANALYSIS = (
    AnalysisKind(partial(analyse, axis=axis), partial(check, axis=axis), FIGURES, statistics=STATISTICS)
    for axis in (WIDTH, DEPTH)
)
