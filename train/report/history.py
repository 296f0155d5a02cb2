"""Curves and layer signals of a run, read from metrics.jsonl once and only as far as needed."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import lt
from pathlib import Path
from sys import intern
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from train.store.files import METRICS_FILE
from train.store.metrics import INVALID, Row, complete_lines, parse_record, parse_rows
from train.store.run import Run
from train.tags import STATISTICS, join, split

SIGNAL_MARK = f'"{join("gradient_std", "")}'.encode()
"""Marks records that observe every layer. Records in between may hold the activations of a few layers only."""

MOST_OBSERVED = 50
"""Records of a run that observe every layer from which the curves of layers are made. TensorBoard has those of each arm."""

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


Place: TypeAlias = tuple["array[int]", "array[float]"]
"""The steps and epochs of a curve."""
Places: TypeAlias = dict[tuple[bytes, bytes], Place]
Columns: TypeAlias = tuple["array[int]", "array[float]", "array[float]"]


@dataclass(frozen=True)
class History:
    """What was read from one run's metrics.jsonl.

    `curves`: requested tag -> curve. `first_signal` and `last_signal`: tag -> value, for the requested statistics in the first
    and the last record that observes every layer, those of `first_step` and `last_observed`. `problem`: why data are missing.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    first_signal: Mapping[str, float] = field(default_factory=dict)
    last_signal: Mapping[str, float] = field(default_factory=dict)
    first_step: int = 0
    last_observed: int = 0
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


def read_histories(runs: Sequence[Run], tags: Iterable[str], statistics: Iterable[str] = tuple(SIGNALS)) -> dict[Path, History]:
    """Read the history of every run, keyed by its folder. One after the other: threads take two thirds more processor time."""
    wanted, of_layers = tuple(tags), tuple(statistics)
    places: Places = {}
    return {run.folder: read_history(run, wanted, of_layers, places) for run in runs}


def read_history(
    run: Run, tags: Iterable[str], statistics: Iterable[str] = tuple(SIGNALS), places: Places | None = None
) -> History:
    """Read the curves of `tags`, and of a run's layers the first and the last value of `statistics`.

    Only lines with one of `tags` are parsed, and the first and last line that observe every layer: lines with layer statistics
    are most of the file. No more than these is held. A torn last line is skipped; a running or killed run leaves one. `places`:
    the steps and epochs of other runs, which most runs have in common; they are shared.
    """
    known: Places = {} if places is None else places
    reader = _Reader(tuple(dict.fromkeys(tags)), tuple(join(name, "") for name in statistics), known)
    try:
        for line in complete_lines(run.metrics_file):
            reader.add(line)
    except OSError as error:
        return History(problem=f"{run.metrics_file.name} cannot be read ({error.strerror})")
    return reader.history()


def read_layer_curves(run: Run, statistics: Iterable[str]) -> dict[str, Curve]:
    """Return, by tag in the order of the network, the curves of `statistics` in every layer.

    Of the records that observe all layers it keeps the first, every n-th and the last, so that what is held stays small.
    """
    kept: list[bytes] = []
    count, every, last = 0, 1, b""
    with suppress(OSError):
        for line in complete_lines(run.metrics_file):
            if SIGNAL_MARK not in line:
                continue
            if count % every == 0:
                kept.append(line)
                if len(kept) > MOST_OBSERVED:
                    kept, every = kept[::2], 2 * every
            count, last = count + 1, line
    if last and last is not kept[-1]:
        kept.append(last)
    rows = _Reader((), (), {}).parsed(kept)
    prefixes = tuple(join(name, "") for name in statistics)
    tags = dict.fromkeys(tag for row in rows for tag in row[3] if tag.startswith(prefixes))
    columns: dict[tuple[int, ...], Columns] = {}
    return {tag: curve for tag in tags if (curve := _curve(tag, rows, columns, {}))}


class _Reader:
    """Collects what a history keeps from the lines of one file, in order."""

    def __init__(self, tags: tuple[str, ...], statistics: tuple[str, ...], places: Places) -> None:
        self._tags = tags
        self._places = places
        self._statistics = statistics
        self._marks = re.compile(b"|".join(re.escape(f'"{tag}"'.encode()) for tag in tags))
        self._lines: list[bytes] = []
        self._rows: list[Row] = []
        self._first_signal = self._last_signal = b""
        self._problem = ""

    def add(self, line: bytes) -> None:
        if SIGNAL_MARK in line:
            self._first_signal, self._last_signal = self._first_signal or line, line
        if self._marks.search(line):
            self._lines.append(line)
            if len(self._lines) == _AT_ONCE:
                self._parse_lines()

    def history(self) -> History:
        self._parse_lines()
        columns: dict[tuple[int, ...], Columns] = {}
        first, last = self.parsed([self._first_signal]), self.parsed([self._last_signal])
        newest = max([*self._rows[-1:], *last], key=lambda row: row[0], default=(0, 0.0))
        return History(
            curves={tag: curve for tag in self._tags if (curve := _curve(tag, self._rows, columns, self._places))},
            first_signal=_signals(first, self._statistics),
            last_signal=_signals(last, self._statistics),
            first_step=first[0][0] if first else 0,
            last_observed=last[0][0] if last else 0,
            last_step=newest[0],
            last_epoch=newest[1],
            problem=self._problem,
        )

    def _parse_lines(self) -> None:
        for row in self.parsed(self._lines):
            step, epoch, time_s, values = row
            kept = values if len(values) <= _FEW else {tag: values[tag] for tag in self._tags if tag in values}
            self._rows.append((step, epoch, time_s, kept))
        self._lines = []

    def parsed(self, lines: Sequence[bytes]) -> list[Row]:
        """Return the records of those lines that hold one. An empty line stands for none."""
        try:
            return parse_rows(lines)
        except INVALID as error:
            if len(lines) > 1:
                return [row for line in lines for row in self.parsed([line])]
            if lines[0]:
                self._problem = self._problem or f"{METRICS_FILE} has an invalid line ({type(error).__name__}: {error})"
            return []


_AT_ONCE = 256
"""Lines that are held to be parsed together."""
_FEW = 16
"""Values of a record that are not worth a selection."""


def _curve(tag: str, rows: Sequence[Row], columns: dict[tuple[int, ...], Columns], places: Places) -> Curve | None:
    """Return a curve in the order of its steps, None without points.

    `columns`: steps, epochs and times of earlier curves of the run, by their records; equal ones are shared.
    """
    ordered = [row for row in rows if tag in row[3]]
    if not ordered:
        return None
    steps = [row[0] for row in ordered]
    if not all(map(lt, steps, steps[1:])):  # a resumed run repeats steps: the later record counts
        points = dict(zip(steps, ordered, strict=True))
        ordered = [points[step] for step in sorted(points)]
    key = tuple(map(id, ordered))
    if key not in columns:
        all_steps, epochs, times_s, _ = zip(*ordered, strict=True)
        columns[key] = *_shared(array("q", all_steps), array("d", epochs), places), array("d", times_s)
    return Curve(*columns[key], array("d", [row[3][tag] for row in ordered]))


def _shared(steps: array[int], epochs: array[float], places: Places) -> Place:
    return places.setdefault((steps.tobytes(), epochs.tobytes()), (steps, epochs))


def _signals(rows: Sequence[Row], statistics: tuple[str, ...]) -> dict[str, float]:
    return {intern(tag): value for row in rows for tag, value in row[3].items() if tag.startswith(statistics)}


def recorded_tags(run: Run) -> set[str]:
    """Return all tags of a run, with one entry per statistic of layers: `lr`, `loss/train`, `activation_std/<layer>`."""
    tags: set[str] = set()
    try:
        for line in complete_lines(run.metrics_file):
            with suppress(*INVALID):
                tags.update(parse_record(line).values)
    except OSError:
        return set()
    of_network = {"loss", "accuracy"}
    pairs = map(split, tags)
    return {name if not layer else join(name, layer if name in of_network else "<layer>") for name, layer in pairs}


def shared_curve(curves: Sequence[Curve]) -> SharedCurve | None:
    """Return the curves at every step that all of them have; None without curves."""
    if not curves:
        return None
    first = curves[0]
    shared = np.frombuffer(first.steps, dtype=np.int64)
    if all(curve.steps == first.steps for curve in curves):
        values = np.frombuffer(b"".join(curve.values for curve in curves)).reshape(len(curves), -1)
    else:
        steps = [np.frombuffer(curve.steps, dtype=np.int64) for curve in curves]
        shared = reduce(np.intersect1d, steps)
        rows = (np.frombuffer(curve.values) for curve in curves)
        values = np.stack([row[np.searchsorted(own, shared)] for row, own in zip(rows, steps, strict=True)])
    kept = np.searchsorted(np.frombuffer(first.steps, dtype=np.int64), shared)
    epochs, times_s = (np.frombuffer(column)[kept] for column in (first.epochs, first.times_s))
    return SharedCurve(shared, epochs, times_s, values)
