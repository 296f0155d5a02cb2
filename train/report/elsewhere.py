"""Runs that were not made here: a table with one row per run becomes a study, so that the same statistics are made of it.

Its columns are named on the command line. A column `state` may say what became of a run that has no value of the metric. In a
table that has the columns of our results.csv, rows that were not compared are left out, and its baseline and the runs that
learned nothing are taken over. Nothing else of a run is known, which the page says.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.escape import line
from train.naming import levels_text
from train.report.analysis import Analysis, analyse
from train.report.arms import Arm, Study, find_baseline, study_of
from train.report.collect import Collection
from train.report.contracts import Threat
from train.report.history import History
from train.report.metric import Metric, as_float
from train.report.outcome import Outcome
from train.report.read_table import Table, TableColumns, open_table, quoted, read_rows
from train.report.results_csv import IDENTITY
from train.report.statistics.threats import RANK
from train.report.table_cells import STATE, flag_of, level_of, number_of, seed_of, state_of
from train.store.run import LONGEST_REASON, Run, State
from train.store.values import IN_SUMMARY
from train.text import listed, plural

_VALUE = "value"
_BETTER = {"accuracy": True, "acc": True, "loss": False, "error": False, "err": False}
_SHARES = frozenset({"accuracy", "acc"})
UNCHECKED = (
    "These runs were not made here, and the table holds nothing but names, seeds and results: whether runs of an arm differ in "
    "their seeds alone, and arms in what their names say, with the same data, code, training budget and precision, could not be "
    "checked, nor whether the metric is of the last step, whether runs are left out, and how often the results were looked at."
)
_REPLACED = frozenset({"unknown_data"})


@dataclass(frozen=True)
class ColumnMetric(Metric):
    """A metric that is a column of a table. `share`: a fraction, or percent that was divided by 100."""

    column: str = ""
    share: bool = False
    better: bool | None = None

    @property
    def is_share(self) -> bool:
        return self.share

    @property
    def higher_is_better(self) -> bool | None:
        return self.better

    def value(self, run: Run, history: History) -> float:  # noqa: ARG002
        return as_float(run.summary.get(_VALUE))


@dataclass
class _Row:
    """A row that counts. `value`: NaN for a run without one."""

    place: str
    levels: tuple[str, ...]
    seed: int
    value: float
    state: State = "done"
    reason: str = ""
    trained: bool | None = None
    is_baseline: bool = False


@dataclass
class _Rows:
    """The rows of a table. `left_out`: how many were not compared where they were made."""

    metric: str
    rows: list[_Row] = field(default_factory=list)
    left_out: int = 0


def analyse_table(
    path: Path, columns: TableColumns, baseline: str = "", *, pairs: bool = False, smallest_effect: float | None = None
) -> Analysis:
    """Analyse the runs in a table, as `train.report.make.analyse_folders` those in folders.

    UsageError for a table that cannot be read, columns that it lacks, and rows that are no runs, with the place of the first.
    """
    _check_columns(columns)
    with open_table(path) as table:
        found = _read(table, columns)
    metric, percent = _metric(found, columns)
    arms, outcomes, is_baseline = _arms(path, found.rows, columns, 100.0 if percent else 1.0)
    study = _study(path, arms, baseline, is_baseline, _described(found, columns, percent))
    histories = dict.fromkeys((run.folder for run in study.runs), History())
    analysis = analyse(study, metric, histories, pairs=pairs, smallest_effect=smallest_effect, found=outcomes)
    threats = [Threat("elsewhere", UNCHECKED, "caution"), *(item for item in analysis.threats if item.kind not in _REPLACED)]
    return replace(analysis, threats=tuple(sorted(threats, key=lambda threat: RANK[threat.severity])))


def _check_columns(columns: TableColumns) -> None:
    if not columns.arm or not columns.seed:
        missing = "--arm COLUMN[,COLUMN]" if not columns.arm else "--seed COLUMN"
        raise UsageError(f"{missing} is missing: a table is read by the names of its columns, such as --arm norm,lr --seed seed.")
    named = [*columns.arm, columns.seed, columns.metric]
    if twice := [name for name in named if named.count(name) > 1]:
        raise UsageError(f"--arm, --seed and --metric name the column {quoted(twice[0])} twice. Name each column once.")


def _read(table: Table, columns: TableColumns) -> _Rows:
    metric = columns.metric
    if metric not in table.names and metric in IN_SUMMARY:
        metric = IN_SUMMARY[metric] if IN_SUMMARY[metric] in table.names else metric
    is_ours = set(IDENTITY) <= set(table.names)
    extra = [name for name in ("compared", "trained", "is_baseline", "reason") if is_ours and name not in columns.arm]
    if STATE in table.names and STATE not in (*columns.arm, columns.seed, metric):
        extra.append(STATE)
    wanted = [*(("--arm", name) for name in columns.arm), ("--seed", columns.seed), ("--metric", metric)]
    found = _Rows(metric)
    seen: dict[tuple[tuple[str, ...], int], str] = {}
    for place, cells in read_rows(table, [*wanted, *((name, name) for name in extra)]):
        more = dict(zip(extra, cells[len(wanted) :], strict=True))
        if flag_of(more.get("compared")) is False:
            found.left_out += 1
            continue
        row = _row(f"{place} of {table.path}", cells[: len(wanted)], columns, metric, more)
        if (first := seen.setdefault((row.levels, row.seed), place)) != place:
            names = levels_text(dict(zip(columns.arm, row.levels, strict=True)))
            raise UsageError(
                f"--seed {line(columns.seed)}: {first} and {place} of {table.path} are both seed {row.seed} of {quoted(names)}. "
                "One row per run is wanted; if they are of different arms, --arm takes every column in which arms differ."
            )
        found.rows.append(replace(row, place=place))
    if not found.rows:
        raise UsageError(f"{table.path}: no row to compare. One row per run is wanted.")
    return found


def _row(where: str, cells: Sequence[Any], columns: TableColumns, metric: str, more: Mapping[str, Any]) -> _Row:
    levels = tuple(level_of(where, name, cell) for name, cell in zip(columns.arm, cells, strict=False))
    seed = seed_of(where, columns.seed, cells[-2])
    state, value = state_of(where, more.get(STATE)), math.nan
    if state == "done":
        value = number_of(where, metric, cells[-1])
    return _Row(
        place="",
        levels=levels,
        seed=seed,
        value=value,
        state=state,
        reason=str(more.get("reason") or "")[:LONGEST_REASON],
        trained=flag_of(more.get("trained")),
        is_baseline=flag_of(more.get("is_baseline")) is True,
    )


def _metric(found: _Rows, columns: TableColumns) -> tuple[ColumnMetric, bool]:
    """Return the metric, and whether its column is in percent, which an accuracy above 1 shows."""
    tag = next((tag for tag, key in IN_SUMMARY.items() if found.metric == key), found.metric)
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", tag)]
    directions = {_BETTER[word] for word in words if word in _BETTER}
    better = directions.pop() if len(directions) == 1 else None
    values = [row.value for row in found.rows if row.state == "done"]
    low, high = min(values, default=0.0), max(values, default=0.0)
    share = bool(_SHARES & set(words)) and better is True and low >= 0 and high <= 100
    if columns.better is not None:
        better = columns.better == "higher"
    return ColumnMetric(tag, found.metric, share, better), share and high > 1


def _arms(path: Path, rows: Sequence[_Row], columns: TableColumns, scale: float) -> tuple[list[Arm], dict[Path, Outcome], str]:
    """Return the arms in the order of their first rows, what became of completed runs, and the id of the table's baseline."""
    by_levels: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        by_levels.setdefault(row.levels, []).append(row)
    arms = []
    for values, members in by_levels.items():
        name, levels = _id(values), dict(zip(columns.arm, values, strict=True))
        runs = (_run(path, name, levels, row, scale) for row in sorted(members, key=lambda row: row.seed))
        arms.append(Arm(name, levels, (), runs=tuple(runs)))
    outcomes = {path / row.place: Outcome(row.trained, "table") for row in rows if row.state == "done"}
    baselines = {row.levels for row in rows if row.is_baseline}
    return arms, outcomes, _id(baselines.pop()) if len(baselines) == 1 else ""


def _run(path: Path, arm: str, levels: Mapping[str, str], row: _Row, scale: float) -> Run:
    """Return the run of a row. Its folder is no folder, but a place in the table."""
    summary = {_VALUE: row.value / scale} if row.state == "done" else {}
    return Run(path / row.place, row.state, row.reason, "", arm, {"seed": row.seed}, levels, (), {}, summary)


def _id(levels: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(levels).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _study(path: Path, arms: Sequence[Arm], requested: str, of_table: str, described: str) -> Study:
    if requested:
        exact = [arm.id for arm in arms if requested in (arm.all_levels, *(arm.levels.values() if len(arm.levels) == 1 else ()))]
        baseline, reason = exact[0] if exact else find_baseline(arms, requested), "as requested."
    elif of_table:
        baseline, reason = of_table, "as the table has it."
    else:
        baseline, reason = (
            arms[0].id,
            "the arm of the first row. Choose another with --baseline." if arms[1:] else "the only arm.",
        )
    collection = Collection((path,), tuple(run for arm in arms for run in arm.runs), (), (), (), table=described)
    return study_of(collection, arms, baseline, reason)


def _described(found: _Rows, columns: TableColumns, percent: bool) -> str:
    """Return what was read of the table, in a sentence."""
    left_out = f", without {plural(found.left_out, 'row')} that {'was' if found.left_out == 1 else 'were'} not compared"
    scaled = " (in percent)" if percent else ""
    return (
        f"{plural(len(found.rows), 'row')}{left_out if found.left_out else ''}; arms by {listed(list(columns.arm))}, "
        f"seeds in {columns.seed}, results in {found.metric}{scaled}"
    )
