"""Curves and layer signals of a run, read from metrics.jsonl once and only as far as needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from train.store.metrics import INVALID, Record, parse_record, read_lines
from train.store.run import Run
from train.tags import join, split

SIGNAL_MARK = f'"{join("gradient_std", "")}'.encode()
"""Marks records that observe every layer. Records in between may hold the activations of a few layers only."""

CURVE_TAGS = ("loss/train", "accuracy/train", "loss/val", "accuracy/val")


@dataclass(frozen=True)
class Curve:
    """The values of one tag over one run; `times_s`: seconds since the run started."""

    steps: tuple[int, ...]
    epochs: tuple[float, ...]
    times_s: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """What was read from one run's metrics.jsonl.

    `curves`: requested tag -> curve. `first_signal` and `last_signal`: all values of the first and the last record that observes
    every layer. `problem`: why data are missing.
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


def read_histories(runs: Sequence[Run], tags: Iterable[str]) -> dict[Path, History]:
    """Read the history of every run, keyed by its folder. Reading waits for the disk, so several are read at a time."""
    wanted = tuple(tags)
    with ThreadPoolExecutor(4) as pool:
        histories = pool.map(lambda run: read_history(run, wanted), runs)
        return {run.folder: history for run, history in zip(runs, histories, strict=True)}


def read_history(run: Run, tags: Iterable[str]) -> History:
    """Read the curves of `tags` and the first and last layer signals of a run.

    Only lines with one of `tags` are parsed, and the first and last line that observe every layer: lines with layer statistics
    are most of the file. A torn last line is skipped; a running or killed run leaves one.
    """
    wanted = tuple(dict.fromkeys(tags))
    try:
        lines = read_lines(run.metrics_file)
    except OSError as error:
        return History(problem=f"{run.metrics_file.name} cannot be read ({error.strerror})")
    problems: list[str] = []
    quoted_tags = tuple(f'"{tag}"'.encode() for tag in wanted)
    records = [*_parse((line for line in lines if any(quoted_tag in line for quoted_tag in quoted_tags)), problems)]
    signal_lines = [i for i, line in enumerate(lines) if SIGNAL_MARK in line]
    first, last = (_parse_one(lines, signal_lines[end], problems) if signal_lines else None for end in (0, -1))
    newest = max([record for record in (*records[-1:], last) if record is not None], key=lambda record: record.step, default=None)
    return History(
        curves={tag: curve for tag in wanted if (curve := _curve(tag, records)) is not None},
        first_signal=first.values if first else {},
        last_signal=last.values if last else {},
        last_step=newest.step if newest else 0,
        last_epoch=newest.epoch if newest else 0.0,
        problem=problems[0] if problems else "",
    )


def recorded_tags(run: Run) -> set[str]:
    """Return all tags of a run, with one entry per statistic of layers: `lr`, `loss/train`, `activation_std/<layer>`."""
    try:
        records = _parse(read_lines(run.metrics_file), [])
        tags = {tag for record in records for tag in record.values}
    except OSError:
        return set()
    of_network = {"loss", "accuracy"}
    pairs = map(split, tags)
    return {name if not layer else join(name, layer if name in of_network else "<layer>") for name, layer in pairs}


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float, tuple[float, ...]]]:
    """Return (step, epoch, value of each curve) at every step that all `curves` have."""
    if not curves:
        return []
    by_step = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    shared = set(by_step[0]).intersection(*by_step[1:])
    return [
        (step, epoch, tuple(values[step] for values in by_step))
        for step, epoch in zip(curves[0].steps, curves[0].epochs, strict=True)
        if step in shared
    ]


def _parse(lines: Iterable[bytes], problems: list[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = parse_record(line)
            if not all(isinstance(value, int | float) for value in record.values.values()):
                raise ValueError("a value is not a number")
            yield record
        except INVALID as error:
            problems.append(f"metrics.jsonl has an invalid line ({type(error).__name__}: {error})")


def _parse_one(lines: Sequence[bytes], index: int, problems: list[str]) -> Record | None:
    return next(_parse([lines[index]], problems), None)


def _curve(tag: str, records: Sequence[Record]) -> Curve | None:
    """Return the curve of `tag`, None if it was never recorded.

    Of two records of one step the later counts: a resumed run repeats steps.
    """
    by_step = {record.step: record for record in records if tag in record.values}
    if not by_step:
        return None
    latest = [by_step[step] for step in sorted(by_step)]
    return Curve(
        tuple(record.step for record in latest),
        tuple(record.epoch for record in latest),
        tuple(record.time_s for record in latest),
        tuple(record.values[tag] for record in latest),
    )
