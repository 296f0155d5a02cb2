"""The arms in TensorBoard: a run for each, with the mean of its runs and an interval. Importing it imports TensorBoard.

In the folder of a sweep it writes one event file, with the charts and the columns of the HParams table, which TensorBoard else takes
from the first run alone; and SWEEP/summary/<arm>/, with the curves. They hold nothing that the runs do not: written again, they
are the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from train.ledger.run import Run
from train.naming import slug
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.curves import CURVE_TAGS, mean_curve
from train.report.statistics.student import two_sided_quantile
from train.sinks import tensorboard_values as values
from train.sinks.hparams import arm_of

_event: Any = event_pb2
_summary: Any = summary_pb2

SUMMARY = "summary"
"""Subfolder of a sweep. It holds no status.json, so that nobody takes it for runs."""
EVENT_FILE = "events.out.tfevents.{:010d}.train-report"
CONFIDENCE = 0.95


def write_charts(analysis: Analysis, folder: Path) -> None:
    """`folder`: of the sweep. What an earlier report wrote there is replaced. OSError when the disk does not take it."""
    target = folder / SUMMARY
    _remove_earlier(folder)
    began = _began(analysis.study.runs)
    for name, arm in zip(_names(analysis), analysis.study.arms, strict=True):
        points = list(_points(analysis, arm))
        if points:
            (target / name).mkdir(parents=True, exist_ok=True)
            _write(target / name, began, ((began + time_s, step, content) for time_s, step, content in points))
    table = values.hparams_table(_columns(analysis), analysis.study.factors.keys() | {"arm"}, began)
    _write(folder, began, [(began, 0, [table, _layout_of(analysis)])])


def _remove_earlier(folder: Path) -> None:
    """What an earlier report wrote, and nothing else."""
    ours = EVENT_FILE.replace("{:010d}", "*")
    for old in [*folder.glob(ours), *(folder / SUMMARY).glob(f"*/{ours}")]:
        old.unlink()
    for empty in [*(folder / SUMMARY).glob("*/"), folder / SUMMARY]:
        with suppress(OSError):
            empty.rmdir()


def _names(analysis: Analysis) -> list[str]:
    """Of the arms as folders: what differs from the baseline, unique."""
    plain = [slug([f"{factor}={level}" for factor, level in arm.differences.items()]) for arm in analysis.study.arms]
    named = ["baseline" if arm.is_baseline else name for arm, name in zip(analysis.study.arms, plain, strict=True)]
    return [f"{name}_{arm.id[:6]}" if named.count(name) > 1 else name for arm, name in zip(analysis.study.arms, named, strict=True)]


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


def _columns(analysis: Analysis) -> dict[str, Any]:
    """Every column that an arm of the study has; one that is a number here and a word there is a word."""
    columns: dict[str, Any] = {}
    for arm in analysis.study.arms:
        for run in arm.runs[:1]:
            for name, value in arm_of(run.config, run.choices, run.overrides).values.items():
                columns[name] = value if type(columns.get(name, value)) is type(value) else str(value)
    return columns


def _layout_of(analysis: Analysis) -> Any:
    charts = {tag: (f"mean/{tag}", f"low/{tag}", f"high/{tag}") for tag in _tags(analysis)}
    return values.margin_layout("arms: mean and 95 % interval", charts)


def _began(runs: Sequence[Run]) -> float:
    """When the first run started, in seconds since 1970; 0 when no run says."""
    found = []
    for run in runs:
        try:
            found.append(datetime.strptime(str(run.status.get("started")), "%Y-%m-%dT%H:%M:%S%z").timestamp())
        except ValueError:
            continue
    return min(found, default=0.0)


def _write(folder: Path, began: float, events: Any) -> None:
    """One event file, whole at every moment."""
    path = folder / EVENT_FILE.format(int(began))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = RecordWriter(temporary.open("wb"))
    try:
        writer.write(_event.Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
        for time_s, step, content in events:
            writer.write(_event.Event(wall_time=time_s, step=step, summary=_summary.Summary(value=content)).SerializeToString())
    finally:
        writer.close()
    temporary.replace(path)
