"""The arms in TensorBoard: a run for each, with the mean of its runs and an interval. Importing it imports TensorBoard.

They lie in SWEEP/summary/<arm>/, the charts that draw them in SWEEP/summary/, and in the folder of a planned sweep one event file
with the columns of the HParams table, which TensorBoard else takes from any one run. They hold nothing that the runs do not:
written again, they are the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2

from train.naming import slug
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.history import CURVE_TAGS, mean_curve
from train.report.statistics.student import two_sided_quantile
from train.sinks import tensorboard_protos as values
from train.sinks.hparams import HParamsRow as Row
from train.sinks.hparams import hparams_row
from train.sinks.tfrecord import tfrecord
from train.store.manifest import FILE_NAME
from train.store.run import Run

_event: Any = event_pb2
_summary: Any = summary_pb2

SUMMARY = "summary"
"""Subfolder of a sweep. It holds no status.json, so that nobody takes it for runs."""
EVENT_FILE = values.SHARED_TABLE
"""The same name every time, also for the curves of arms, so that a report replaces the files of the one before."""
CONFIDENCE = 0.95


def write_charts(analysis: Analysis, folder: Path) -> None:
    """`folder`: of the sweep. What an earlier report wrote there is replaced. OSError when the disk does not take it."""
    target = folder / SUMMARY
    _remove_earlier(folder)
    target.mkdir(exist_ok=True)
    began = _began(analysis.study.runs)
    for name, arm in zip(_names(analysis), analysis.study.arms, strict=True):
        points = list(_points(analysis, arm))
        if points:
            (target / name).mkdir(exist_ok=True)
            _write(target / name, began, ((began + time_s, step, content) for time_s, step, content in points))
    charts = {tag: (f"mean/{tag}", f"low/{tag}", f"high/{tag}") for tag in _tags(analysis)}
    _write(target, began, [(began, 0, [values.margin_layout("arms: mean and 95 % interval", charts)])])
    if (folder / FILE_NAME).exists():  # elsewhere, runs that come later would find a table that lacks their columns
        rows = [
            hparams_row(arm.runs[0].config, arm.runs[0].choices, arm.runs[0].overrides) for arm in analysis.study.arms if arm.runs
        ]
        write_table(folder, rows, (*analysis.study.factors, *analysis.study.tune), began)


def write_table(folder: Path, arms: Sequence[Row], factors: Collection[str], began: float = 0.0) -> None:
    """The columns of the HParams table for all `arms` of a sweep; written before its first run, its runs bring none of their own.
    `factors` are the columns that are seen first."""
    _write(folder, began, [(began, 0, [values.hparams_table(_columns(arms), {"arm", *factors}, began)])])


def _remove_earlier(folder: Path) -> None:
    """What an earlier report wrote, and nothing else."""
    for old in (folder / SUMMARY).rglob(EVENT_FILE):
        old.unlink()
    for empty in [*(folder / SUMMARY).glob("*/"), folder / SUMMARY]:
        with suppress(OSError):
            empty.rmdir()


def _names(analysis: Analysis) -> list[str]:
    """Of the arms as folders: what differs from the baseline, unique."""
    plain = [slug([f"{factor}={level}" for factor, level in arm.differences.items()]) for arm in analysis.study.arms]
    named = ["baseline" if arm.is_baseline else name for arm, name in zip(analysis.study.arms, plain, strict=True)]
    return [
        f"{name}_{arm.id[:6]}" if named.count(name) > 1 else name for arm, name in zip(analysis.study.arms, named, strict=True)
    ]


def _points(analysis: Analysis, arm: Arm) -> Iterator[tuple[float, int, list[Any]]]:
    """(seconds since the beginning, step, values), for each tag where all runs that ended have it."""
    done = [analysis.history(run) for run in arm.having("done")]
    for tag in _tags(analysis):
        curves = [history.curves[tag] for history in done if tag in history.curves]
        times = dict(zip(curves[0].steps, curves[0].times_s, strict=True)) if curves else {}
        for step, _, found in mean_curve(curves):
            yield times[step], step, _band(tag, found)


def _tags(analysis: Analysis) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*CURVE_TAGS, analysis.metric.tag]))


def _band(tag: str, found: Sequence[float]) -> list[Any]:
    """The mean and, of two runs or more, the ends of its own t interval."""
    mean = sum(found) / len(found)
    content = [values.scalar(f"mean/{tag}", mean)]
    if len(found) > 1 and math.isfinite(mean):
        variance = sum((value - mean) ** 2 for value in found) / (len(found) - 1)
        half = _t_quantile(len(found) - 1) * math.sqrt(variance / len(found))
        content += [values.scalar(f"low/{tag}", mean - half), values.scalar(f"high/{tag}", mean + half)]
    return content


@lru_cache
def _t_quantile(df: int) -> float:
    return two_sided_quantile(1 - CONFIDENCE, df)


def _columns(arms: Sequence[Row]) -> dict[str, Any]:
    """Every column that one of them has; one that is a number here and a word there is a word."""
    columns: dict[str, Any] = {}
    for arm in arms:
        for name, value in arm.values.items():
            columns[name] = value if type(columns.get(name, value)) is type(value) else str(value)
    return columns


def _began(runs: Sequence[Run]) -> float:
    """When the first run started, in seconds since 1970; 0 when no run says."""
    found = []
    for run in runs:
        try:
            found.append(datetime.strptime(str(run.status.get("started")), "%Y-%m-%dT%H:%M:%S%z").timestamp())
        except ValueError:
            continue
    return min(found, default=0.0)


def _write(folder: Path, began: float, events: Iterable[tuple[float, int, list[Any]]]) -> None:
    """One event file, whole at every moment."""
    path = folder / EVENT_FILE
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(tfrecord(_event.Event(wall_time=began, file_version="brain.Event:2").SerializeToString()))
        for time_s, step, content in events:
            event = _event.Event(wall_time=time_s, step=step, summary=_summary.Summary(value=content))
            file.write(tfrecord(event.SerializeToString()))
    temporary.replace(path)
