"""The arms in TensorBoard: one TensorBoard run per arm, with the mean and interval of its runs. Importing it imports TensorBoard.

The curves are in SWEEP/summary/<arm>/ and their charts in SWEEP/summary/. The folder of a planned sweep also has an event file
with the columns of the HParams table, which TensorBoard would otherwise take from an arbitrary run. All of it is derived from the
runs: writing it twice gives the same files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto import event_pb2, summary_pb2

from train.naming import arm_folder
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.history import CURVE_TAGS, SharedCurve, read_layer_curves, shared_curve
from train.report.statistics.contrasts import two_sided_quantile
from train.sinks import tensorboard_protos as values
from train.sinks.hparams import HParamsRow as Row
from train.sinks.hparams import hparams_row
from train.sinks.tensorboard_protos import tfrecord
from train.store.files import MANIFEST_FILE, SUMMARY
from train.store.inside import Folder
from train.store.run import Run

_event: Any = event_pb2
_summary: Any = summary_pb2

EVENT_FILE = values.SHARED_TABLE
"""A fixed name, also for the curves of arms, so that a report replaces the files of the previous one."""
CONFIDENCE = 0.95


def write_charts(analysis: Analysis, folder: Path) -> None:
    """Write curves, charts and the HParams table into the sweep's `folder`, replacing those of an earlier report.

    OSError when writing fails.
    """
    target = (Folder(folder) / SUMMARY).make()
    _remove_earlier(target)
    started = _first_start(analysis.study.runs)
    of_layers: dict[str, None] = {}
    for name, arm in zip(_names(analysis), analysis.study.arms, strict=True):
        layers = _layer_means(analysis, arm)
        of_layers |= dict.fromkeys(layers)
        points = [*_points(analysis, arm), *(point for tag, curve in layers.items() for point in _line(tag, curve))]
        if points:
            _write((target / name).make(), started, ((started + time_s, step, content) for time_s, step, content in points))
    bands = {tag: (f"mean/{tag}", f"low/{tag}", f"high/{tag}") for tag in _tags(analysis)}
    _write(target, started, [(started, 0, [values.layout(of_layers, bands)])])
    if Folder(folder).exists(MANIFEST_FILE):  # elsewhere, the table would lack the columns of runs added later
        rows = [
            hparams_row(arm.runs[0].config, arm.runs[0].choices, arm.runs[0].overrides) for arm in analysis.study.arms if arm.runs
        ]
        write_table(folder, rows, (*analysis.study.factors, *analysis.study.tune), started)


def write_table(folder: Path, arms: Sequence[Row], factors: Collection[str], started: float = 0.0) -> None:
    """Write the columns of the HParams table for all `arms` of a sweep; `factors` are the columns shown first.

    If it is written before the sweep's first run, the runs write no table of their own.
    """
    _write(Folder(folder), started, [(started, 0, [values.hparams_table(_columns(arms), {"arm", *factors}, started)])])


def _remove_earlier(target: Folder) -> None:
    """Delete what an earlier report wrote below its folder, and nothing else."""
    target.remove(EVENT_FILE)
    for name in target.subfolders():
        (target / name).remove(EVENT_FILE)
        with suppress(OSError):
            target.remove_folder(name)


def _names(analysis: Analysis) -> list[str]:
    """Return the name of each arm as that of a folder, and what tells apart those that begin alike and are long."""
    names = [arm_folder(analysis.study.labels[arm.id]) for arm in analysis.study.arms]
    counts = Counter(names)
    return [f"{name}_{arm.id[:6]}" if counts[name] > 1 else name for arm, name in zip(analysis.study.arms, names, strict=True)]


def _points(analysis: Analysis, arm: Arm) -> Iterator[tuple[float, int, list[Any]]]:
    """Yield (seconds since the run started, step, values): how many runs trained, and of each tag the mean of those that did, at
    every step that all of them have."""
    rate = analysis.training(arm)
    if rate is not None and rate.total:
        yield 0.0, 0, [values.text("trained", f"{rate.count} of {rate.total} trained")]
    histories = [analysis.history(run) for run in analysis.averaged_runs(arm)]
    for tag in _tags(analysis):
        if shared := shared_curve([history.curves[tag] for history in histories if tag in history.curves]):
            half = _half_width(shared)
            for step, time_s, mean, width in zip(shared.steps, shared.times_s, shared.means(), half, strict=True):
                yield float(time_s), int(step), _band(tag, float(mean), float(width))


def _layer_means(analysis: Analysis, arm: Arm) -> dict[str, SharedCurve]:
    """Return, by tag, what has a chart for each layer, of the runs of the arm that trained."""
    curves = [read_layer_curves(run, values.BY_LAYER) for run in analysis.averaged_runs(arm)]
    tags = dict.fromkeys(tag for of_run in curves for tag in of_run)
    shared = {tag: shared_curve([of_run[tag] for of_run in curves if tag in of_run]) for tag in tags}
    return {tag: curve for tag, curve in shared.items() if curve is not None}


def _line(tag: str, curve: SharedCurve) -> Iterator[tuple[float, int, list[Any]]]:
    for step, time_s, mean in zip(curve.steps, curve.times_s, curve.means(), strict=True):
        yield float(time_s), int(step), [values.scalar(tag, float(mean))]


def _tags(analysis: Analysis) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*CURVE_TAGS, analysis.metric.tag]))


def _half_width(curve: SharedCurve) -> NDArray[np.float64]:
    """Return half the width of the t interval of the mean at every point; NaN for one run, and where a run is not finite."""
    runs = len(curve.values)
    if runs < 2:
        return np.full(len(curve.steps), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        return _t_quantile(runs - 1) * curve.values.std(axis=0, ddof=1) / math.sqrt(runs)


def _band(tag: str, mean: float, half: float) -> list[Any]:
    """Return the mean, under the tag of the runs so that one chart shows both, and the ends of its interval, if it has one.

    The chart of intervals complains of every run that has one of its three tags alone, so it has the mean under another tag.
    """
    ends = {"mean": mean, "low": mean - half, "high": mean + half} if math.isfinite(half) else {}
    return [values.scalar(tag, mean), *(values.scalar(f"{name}/{tag}", value) for name, value in ends.items())]


@lru_cache
def _t_quantile(df: int) -> float:
    return two_sided_quantile(1 - CONFIDENCE, df)


def _columns(arms: Sequence[Row]) -> dict[str, Any]:
    """Merge the columns of all arms; a column with values of different types becomes text."""
    columns: dict[str, Any] = {}
    for arm in arms:
        for name, value in arm.values.items():
            columns[name] = value if type(columns.get(name, value)) is type(value) else str(value)
    return columns


def _first_start(runs: Sequence[Run]) -> float:
    """Return when the first run started, in seconds since 1970; 0 if no run has a start time."""
    starts = []
    for run in runs:
        try:
            starts.append(datetime.strptime(str(run.status.get("started")), "%Y-%m-%dT%H:%M:%S%z").timestamp())
        except ValueError:
            continue
    return min(starts, default=0.0)


def _write(folder: Folder, started: float, events: Iterable[tuple[float, int, list[Any]]]) -> None:
    """Write one event file atomically."""
    encoded = [_event.Event(wall_time=started, file_version="brain.Event:2")]
    for time_s, step, content in events:
        encoded.append(_event.Event(wall_time=time_s, step=step, summary=_summary.Summary(value=content)))
    folder.write(EVENT_FILE, b"".join(tfrecord(event.SerializeToString()) for event in encoded))
