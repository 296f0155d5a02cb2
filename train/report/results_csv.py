"""The results of a report as a table, one row per run; as results.csv, with pairs.csv beside it, one row per pair of arms."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from train.command import TO_RESUME, train_command
from train.escape import csv_cell
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.collect import factors_of, settings_of
from train.report.contracts import Pairwise
from train.report.facts import code_version, hosts_of
from train.report.metric import as_float
from train.report.paths import relative_path
from train.store.run import Run
from train.store.values import IN_SUMMARY

Kind: TypeAlias = Literal["text", "whole", "real", "flag", "time", "level"]
"""What a column holds: text, integers, floats, true or false, times of the day as ISO 8601, or levels as they are typed."""

IDENTITY: dict[str, Kind] = {
    **dict.fromkeys(("folder", "state", "reason", "arm", "arm_id", "identity"), "text"),
    **dict.fromkeys(("is_baseline", "compared", "trained"), "flag"),
    **dict.fromkeys(("plan", "seed"), "whole"),
}
_NUMBERS: dict[str, Kind] = {"steps": "whole", "time_s": "real", "images_per_s": "real"}
_NUMBERS |= dict.fromkeys(("parameters", "flops_per_image", "peak_memory_bytes"), "whole")
_PROVENANCE: dict[str, Kind] = {"started": "time", **dict.fromkeys(("device", "precision", "host", "code", "command"), "text")}


@dataclass(frozen=True)
class Results:
    """A table of runs. `columns`: name and kind of each; `rows`: the values of a run in this order, None for an unknown one."""

    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[Any, ...], ...]


def results(analysis: Analysis, out: Path) -> Results:
    """Return the results of all runs; `out` is the report's folder, to which run folders are relative.

    Columns: identity of the run, every factor and every configuration key in which runs differ, results, and provenance.
    Accuracies are fractions. A factor has the name of its key, without the + of `+trainer.max_steps`. `compared` is false at
    levels of tuned keys that were not selected, `trained` where a run learned nothing. `plan`: which plan of its sweep was the
    first to have the run, counted from 1: where a sweep grew after it was looked at, the first alone gives final verdicts.
    """
    runs = [(arm, run) for arm in analysis.ranked for run in (*arm.runs, *arm.unchosen_runs)]
    compared = {id(run) for run in analysis.study.runs}
    plans = {run.identity: run.plan + 1 for plan in analysis.study.collection.plans for run in plan.manifest.runs}
    settings = settings_of(run for _, run in runs)
    distinct = {id(setting): setting for setting in settings}
    factors = {factor.lstrip("+~"): factor for factor in (*analysis.study.factors, *factors_of(list(distinct.values())))}
    roles = sorted({role for _, run in runs for role in run.seeds})
    metric = [] if analysis.metric.tag in IN_SUMMARY else [analysis.metric.tag]
    columns: list[tuple[str, Kind]] = [
        *IDENTITY.items(),
        *((f"seeds.{role}", "whole") for role in roles),
        *((name, "level") for name in factors),
        *((name, "real") for name in (*IN_SUMMARY.values(), *metric)),
        *_NUMBERS.items(),
        *_PROVENANCE.items(),
    ]
    rows = [
        (
            *_identity(analysis, arm, run, out, is_compared=id(run) in compared),
            plans.get(run.identity),
            run.seed,
            *(run.seeds.get(role) for role in roles),
            *(arm.levels.get(factor) or setting.level(factor) for factor in factors.values()),
            *(_number(run.summary.get(key)) for key in IN_SUMMARY.values()),
            *(_number(analysis.value(run)) for _ in metric),
            *_provenance(run),
        )
        for (arm, run), setting in zip(runs, settings, strict=True)
    ]
    return Results(tuple(columns), tuple(rows))


def csv_text(found: Results) -> str:
    """Return the text of results.csv. Unknown values are empty; a text that a spreadsheet would take for a formula begins with an
    apostrophe; numbers are bit-exact."""
    return table_text([[name for name, _ in found.columns], *(map(_cell, row) for row in found.rows)])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else repr(value) if isinstance(value, float) else value


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
    """Return the values of the columns up to `trained`."""
    outcome, reason = analysis.outcomes.get(run.folder), run.reason.partition(TO_RESUME)[0]
    texts = (relative_path(run.folder, out), run.state, reason, analysis.study.labels[arm.id], run.arm, run.identity)
    return *texts, arm.is_baseline, is_compared, outcome.trained if outcome else None


def _provenance(run: Run) -> Iterable[Any]:
    status = run.status
    return (
        *(_number(run.summary.get(key)) for key in _NUMBERS),
        *(status.get(key) for key in ("started", "device", "precision")),
        " then ".join(hosts_of(run)) or None,
        code_version(run),
        train_command(run.overrides),
    )


def _number(value: Any) -> int | float | None:
    """Return a number, bit-exact; None for what is none."""
    return value if isinstance(value, int) else None if math.isnan(exact := as_float(value)) else exact
