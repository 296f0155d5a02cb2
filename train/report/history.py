"""Curves and layer signals of a run, read from metrics.jsonl once and only as far as needed."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from sys import intern

import numpy as np
from numpy.typing import NDArray

from train.store.metrics import INVALID, Record, complete_lines, parse_record
from train.store.run import Run
from train.tags import STATISTICS, join, split

SIGNAL_MARK = f'"{join("gradient_std", "")}'.encode()
"""Marks records that observe every layer. Records in between may hold the activations of a few layers only."""

CURVE_TAGS = ("loss/train", "accuracy/train", "loss/val", "accuracy/val")

SIGNALS = {statistic.name: statistic.signal for statistic in STATISTICS if statistic.signal}
"""Statistic -> what it is in words, for those that a report draws of every layer."""


@dataclass(frozen=True)
class Curve:
    """The values of one tag over one run; `times_s`: seconds since the run started. A report holds thousands, hence arrays."""

    steps: array[int]
    epochs: array[float]
    times_s: array[float]
    values: array[float]


@dataclass(frozen=True)
class History:
    """What was read from one run's metrics.jsonl.

    `curves`: requested tag -> curve. `first_signal` and `last_signal`: tag -> value, for `SIGNALS` in the first and the last
    record that observes every layer. `problem`: why data are missing.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    first_signal: Mapping[str, float] = field(default_factory=dict)
    last_signal: Mapping[str, float] = field(default_factory=dict)
    last_step: int = 0
    last_epoch: float = 0.0
    problem: str = ""

    def last(self, tag: str) -> float:
        """Return the last recorded value of `tag`; NaN if it was never recorded."""
        curve = self.curves.get(tag)
        return curve.values[-1] if curve else math.nan


@dataclass(frozen=True)
class SharedCurve:
    """Several runs at the steps that all of them have: `values` [runs, points], the other fields [points], of the first run."""

    steps: NDArray[np.int64]
    epochs: NDArray[np.float64]
    times_s: NDArray[np.float64]
    values: NDArray[np.float64]

    def means(self) -> NDArray[np.float64]:
        """Return the mean of the runs at every point; NaN or infinite where a run is."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.values.mean(axis=0)


def read_histories(runs: Sequence[Run], tags: Iterable[str]) -> dict[Path, History]:
    """Read the history of every run, keyed by its folder. Reading waits for the disk, so several are read at a time."""
    wanted = tuple(tags)
    with ThreadPoolExecutor(4) as pool:
        histories = pool.map(lambda run: read_history(run, wanted), runs)
        return {run.folder: history for run, history in zip(runs, histories, strict=True)}


def read_history(run: Run, tags: Iterable[str]) -> History:
    """Read the curves of `tags` and the first and last layer signals of a run.

    Only lines with one of `tags` are parsed, and the first and last line that observe every layer: lines with layer statistics
    are most of the file. No more than these is held. A torn last line is skipped; a running or killed run leaves one.
    """
    reader = _Reader(tuple(dict.fromkeys(tags)))
    try:
        for line in complete_lines(run.metrics_file):
            reader.add(line)
    except OSError as error:
        return History(problem=f"{run.metrics_file.name} cannot be read ({error.strerror})")
    return reader.history()


_Place = tuple[int, float, float]
"""Step, epoch and seconds of a record."""


class _Reader:
    """Collects what a history keeps from the lines of one file, in order."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        self._marks = tuple(f'"{tag}"'.encode() for tag in tags)
        self._points: dict[str, dict[int, tuple[_Place, float]]] = {tag: {} for tag in tags}
        self._newest: _Place = (0, 0.0, 0.0)
        self._first_signal = self._last_signal = b""
        self._problem = ""

    def add(self, line: bytes) -> None:
        if SIGNAL_MARK in line:
            self._first_signal, self._last_signal = self._first_signal or line, line
        if not any(mark in line for mark in self._marks):
            return
        if (record := self._parsed(line)) is None:
            return
        place = self._newest = record.step, record.epoch, record.time_s
        for tag, points in self._points.items():
            if tag in record.values:
                points[record.step] = place, record.values[tag]  # a resumed run repeats steps: the later record counts

    def history(self) -> History:
        curves = {tag: points for tag, points in self._points.items() if points}
        places: dict[tuple[int, ...], tuple[array[int], array[float], array[float]]] = {}
        first, last = (self._parsed(line) if line else None for line in (self._first_signal, self._last_signal))
        ends = [self._newest, *([(last.step, last.epoch, last.time_s)] if last else [])]
        newest = max(ends, key=lambda place: place[0])
        return History(
            curves={tag: _curve(points, places) for tag, points in curves.items()},
            first_signal=_signals(first),
            last_signal=_signals(last),
            last_step=newest[0],
            last_epoch=newest[1],
            problem=self._problem,
        )

    def _parsed(self, line: bytes) -> Record | None:
        problems: list[str] = []
        record = next(_parse([line], problems), None)
        self._problem = self._problem or "".join(problems)
        return record


def _curve(points: Mapping[int, tuple[_Place, float]], places: dict[tuple[int, ...], tuple[array, array, array]]) -> Curve:
    """Return a curve in the order of its steps. `places`: those of earlier curves, by their records; equal ones are shared."""
    ordered = [points[step] for step in sorted(points)]
    key = tuple(id(place) for place, _ in ordered)
    if key not in places:
        steps, epochs, times_s = zip(*(place for place, _ in ordered), strict=True)
        places[key] = array("q", steps), array("d", epochs), array("d", times_s)
    return Curve(*places[key], array("d", (value for _, value in ordered)))


def _signals(record: Record | None) -> dict[str, float]:
    values = record.values if record else {}
    return {intern(tag): value for tag, value in values.items() if split(tag)[0] in SIGNALS}


def recorded_tags(run: Run) -> set[str]:
    """Return all tags of a run, with one entry per statistic of layers: `lr`, `loss/train`, `activation_std/<layer>`."""
    try:
        records = _parse(complete_lines(run.metrics_file), [])
        tags = {tag for record in records for tag in record.values}
    except OSError:
        return set()
    of_network = {"loss", "accuracy"}
    pairs = map(split, tags)
    return {name if not layer else join(name, layer if name in of_network else "<layer>") for name, layer in pairs}


def shared_curve(curves: Sequence[Curve]) -> SharedCurve | None:
    """Return the curves at every step that all of them have; None without curves."""
    if not curves:
        return None
    steps = [np.frombuffer(curve.steps, dtype=np.int64) for curve in curves]
    values = [np.frombuffer(curve.values) for curve in curves]
    shared = steps[0]
    if any(not np.array_equal(other, shared) for other in steps[1:]):
        shared = reduce(np.intersect1d, steps)
        values = [row[np.searchsorted(own, shared)] for row, own in zip(values, steps, strict=True)]
    kept = np.searchsorted(steps[0], shared)
    epochs, times_s = (np.frombuffer(column)[kept] for column in (curves[0].epochs, curves[0].times_s))
    return SharedCurve(shared, epochs, times_s, np.stack(values))


_WRONG = (*INVALID, OverflowError)


def _parse(lines: Iterable[bytes], problems: list[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = parse_record(line)
            if not all(isinstance(value, int | float) for value in record.values.values()):
                raise ValueError("a value is not a number")
            array("q", [record.step]), array("d", record.values.values())  # OverflowError for numbers that no float holds
            yield record
        except _WRONG as error:
            problems.append(f"metrics.jsonl has an invalid line ({type(error).__name__}: {error})")
