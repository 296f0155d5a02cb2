"""results.csv: one row per run, and pairs.csv: one row per pair of arms, for further analysis."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.collect import factors_of, settings_of
from train.report.content import relative_path
from train.report.facts import code_version
from train.report.metric import IN_SUMMARY, as_float
from train.report.table import command
from train.store.run import Run

FIRST = ("folder", "state", "reason", "arm", "arm_id", "identity", "is_baseline", "compared", "trained", "seed")
_NUMBERS = ("steps", "time_s", "images_per_s", "parameters", "flops_per_image", "peak_memory_bytes")


def csv_text(analysis: Analysis, out: Path) -> str:
    """Return the text of results.csv; `out` is the report's folder, to which run folders are relative.

    Columns: identity of the run, every factor and every configuration key in which runs differ, results, and provenance.
    Accuracies are fractions. Unknown values are empty. `compared` is false at levels of tuned keys that were not selected,
    `trained` where a run learned nothing.
    """
    runs = [(arm, run) for arm in analysis.ranked for run in (*arm.runs, *arm.unchosen_runs)]
    compared = {id(run) for run in analysis.study.runs}
    settings = settings_of(run for _, run in runs)
    distinct = {id(setting): setting for setting in settings}
    columns = list(dict.fromkeys([*analysis.study.factors, *factors_of(list(distinct.values()))]))
    roles = sorted({role for _, run in runs for role in run.seeds})
    metric = [] if analysis.metric.tag in IN_SUMMARY else [analysis.metric.tag]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
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
    )
    for (arm, run), setting in zip(runs, settings, strict=True):
        levels = [arm.levels.get(factor) or setting.level(factor) for factor in columns]
        results = [_cell(run.summary.get(key)) for key in IN_SUMMARY.values()] + [_cell(analysis.value(run)) for _ in metric]
        writer.writerow(
            [
                *_identity(analysis, arm, run, out, is_compared=id(run) in compared),
                *(run.seeds.get(role, "") for role in roles),
                *levels,
                *results,
                *_provenance(run),
            ]
        )
    return buffer.getvalue()


PAIRS = ("first", "second", "difference", "low", "high", "p_adjusted", "detectable", "standard_error", "df")


def pairs_text(analysis: Analysis) -> str:
    """Return the text of pairs.csv: the difference of every two arms, first minus second. Unknown values are empty."""
    buffer, labels = io.StringIO(), analysis.study.labels
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(PAIRS)
    for pair in analysis.pairs or ():
        numbers = (getattr(pair, name) for name in PAIRS[2:])
        writer.writerow([labels[pair.first], labels[pair.second], *("" if value is None else repr(value) for value in numbers)])
    return buffer.getvalue()


def _identity(analysis: Analysis, arm: Arm, run: Run, out: Path, *, is_compared: bool) -> Iterable[Any]:
    label = analysis.study.labels[arm.id]
    flags = (str(arm.is_baseline).lower(), str(is_compared).lower())
    outcome = analysis.outcomes.get(run.folder)
    trained = "" if outcome is None or outcome.trained is None else str(outcome.trained).lower()
    return relative_path(run.folder, out), run.state, run.reason, label, run.arm, run.identity, *flags, trained, run.seed


def _provenance(run: Run) -> Iterable[Any]:
    status = run.status
    numbers = [_cell(run.summary.get(key)) for key in _NUMBERS]
    return (
        *numbers,
        status.get("started", ""),
        status.get("device", ""),
        status.get("precision", ""),
        code_version(run),
        command(run),
    )


def _cell(value: Any) -> Any:
    """Return a number bit-exact, or an empty string."""
    return value if isinstance(value, int) else "" if math.isnan(exact := as_float(value)) else repr(exact)
