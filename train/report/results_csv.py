"""results.csv: one row per run, and pairs.csv: one row per pair of arms, for further analysis."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.command import TO_RESUME, train_command
from train.escape import csv_cell
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.collect import factors_of, settings_of
from train.report.contracts import Pairwise
from train.report.facts import code_version
from train.report.metric import as_float
from train.report.paths import relative_path
from train.store.run import Run
from train.store.values import IN_SUMMARY

FIRST = ("folder", "state", "reason", "arm", "arm_id", "identity", "is_baseline", "compared", "trained", "plan", "seed")
_NUMBERS = ("steps", "time_s", "images_per_s", "parameters", "flops_per_image", "peak_memory_bytes")


def csv_text(analysis: Analysis, out: Path) -> str:
    """Return the text of results.csv; `out` is the report's folder, to which run folders are relative.

    Columns: identity of the run, every factor and every configuration key in which runs differ, results, and provenance.
    Accuracies are fractions. Unknown values are empty. A factor has the name of its key, without the + of `+trainer.max_steps`; a
    text that a spreadsheet would take for a formula begins with an apostrophe. `compared` is false at levels of tuned keys that
    were not selected, `trained` where a run learned nothing. `plan`: which plan of its sweep was the first to have the run,
    counted from 1: where a sweep grew after it was looked at, those of the first alone give final verdicts.
    """
    runs = [(arm, run) for arm in analysis.ranked for run in (*arm.runs, *arm.unchosen_runs)]
    compared = {id(run) for run in analysis.study.runs}
    plans = {run.identity: run.plan + 1 for plan in analysis.study.collection.plans for run in plan.manifest.runs}
    settings = settings_of(run for _, run in runs)
    distinct = {id(setting): setting for setting in settings}
    columns = {factor.lstrip("+~"): factor for factor in (*analysis.study.factors, *factors_of(list(distinct.values())))}
    roles = sorted({role for _, run in runs for role in run.seeds})
    metric = [] if analysis.metric.tag in IN_SUMMARY else [analysis.metric.tag]
    rows: list[list[Any]] = [
        [
            *FIRST,
            *(f"seeds.{role}" for role in roles),
            *columns,
            *IN_SUMMARY.values(),
            *metric,
            *_NUMBERS,
            "started",
            "device",
            "precision",
            "code",
            "command",
        ]
    ]
    for (arm, run), setting in zip(runs, settings, strict=True):
        levels = [arm.levels.get(factor) or setting.level(factor) for factor in columns.values()]
        results = [_cell(run.summary.get(key)) for key in IN_SUMMARY.values()] + [_cell(analysis.value(run)) for _ in metric]
        rows.append(
            [
                *_identity(analysis, arm, run, out, is_compared=id(run) in compared),
                plans.get(run.identity, ""),
                run.seed,
                *(run.seeds.get(role, "") for role in roles),
                *levels,
                *results,
                *_provenance(run),
            ]
        )
    return table_text(rows)


def table_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(csv_cell, row) for row in rows)
    return buffer.getvalue()


PAIRS = ("first", "second", "difference", "low", "high", "p_adjusted", "detectable", "standard_error", "df")


def pairs_text(analysis: Analysis) -> str:
    """Return the text of pairs.csv: the difference of every two arms, first minus second. Unknown values are empty."""
    labels = analysis.study.labels
    return table_text([PAIRS, *(_pair(pair, labels) for pair in analysis.pairs or ())])


def _pair(pair: Pairwise, labels: Mapping[str, str]) -> list[Any]:
    numbers = (getattr(pair, name) for name in PAIRS[2:])
    return [labels[pair.first], labels[pair.second], *("" if value is None else repr(value) for value in numbers)]


def _identity(analysis: Analysis, arm: Arm, run: Run, out: Path, *, is_compared: bool) -> Iterable[Any]:
    label = analysis.study.labels[arm.id]
    flags = (str(arm.is_baseline).lower(), str(is_compared).lower())
    outcome, reason = analysis.outcomes.get(run.folder), run.reason.partition(TO_RESUME)[0]
    trained = "" if outcome is None or outcome.trained is None else str(outcome.trained).lower()
    return relative_path(run.folder, out), run.state, reason, label, run.arm, run.identity, *flags, trained


def _provenance(run: Run) -> Iterable[Any]:
    status = run.status
    numbers = [_cell(run.summary.get(key)) for key in _NUMBERS]
    return (
        *numbers,
        status.get("started", ""),
        status.get("device", ""),
        status.get("precision", ""),
        code_version(run),
        train_command(run.overrides),
    )


def _cell(value: Any) -> Any:
    """Return a number bit-exact, or an empty string."""
    return value if isinstance(value, int) else "" if math.isnan(exact := as_float(value)) else repr(exact)
