"""What metrics.jsonl says of a run, read once and only where it is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from train.sinks.contracts import Record
from train.sinks.jsonl import parse_record
from train.store.run import Run

SIGNAL_MARK = b'"gradient_std/'
"""What tells the records in which all layers were looked at: between them come some with the activations of a few layers."""

CURVE_TAGS = ("loss/train", "accuracy/train", "loss/val", "accuracy/val")


@dataclass(frozen=True)
class Curve:
    """One tag over one run; `times_s` since the run began."""

    steps: tuple[int, ...]
    epochs: tuple[float, ...]
    times_s: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """`curves`: tag -> curve, of the tags asked for; `first_signal` and `last_signal`: all values of the first and the last
    record in which the layers were looked at; `problem`: why there is nothing, or not all."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    first_signal: Mapping[str, float] = field(default_factory=dict)
    last_signal: Mapping[str, float] = field(default_factory=dict)
    last_step: int = 0
    last_epoch: float = 0.0
    problem: str = ""

    def last(self, tag: str) -> float:
        """NaN where the tag was never recorded."""
        curve = self.curves.get(tag)
        return curve.values[-1] if curve else math.nan


def read_histories(runs: Sequence[Run], tags: Iterable[str]) -> dict[Path, History]:
    """Of every run, by its folder. Reading waits for the disk, so several are read at a time."""
    wanted = tuple(tags)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda run: read_history(run, wanted), runs)
        return {run.folder: history for run, history in zip(runs, found, strict=True)}


def read_history(run: Run, tags: Iterable[str]) -> History:
    """Lines are parsed only where they hold one of `tags`, and the first and last with a look at the layers: those are most of
    the file. A torn last line is what a run that goes on, or was killed, leaves."""
    wanted = tuple(dict.fromkeys(tags))
    try:
        lines = [line for line in _content(run.metrics_file).splitlines(keepends=True) if line.endswith(b"\n")]
    except OSError as error:
        return History(problem=f"{run.metrics_file.name} cannot be read ({error.strerror})")
    problems: list[str] = []
    marks = tuple(f'"{tag}"'.encode() for tag in wanted)
    records = [*_parsed((line for line in lines if any(mark in line for mark in marks)), problems)]
    looks = [i for i, line in enumerate(lines) if SIGNAL_MARK in line]
    first, last = (_one(lines, looks[place], problems) if looks else None for place in (0, -1))
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
    """Every tag of one run that was recorded for the network as a whole, and those of layers by their statistic: `lr`,
    `loss/train`, `activation_std/<layer>`."""
    try:
        records = _parsed(_content(run.metrics_file).splitlines(keepends=True), [])
        tags = {tag for record in records for tag in record.values}
    except OSError:
        return set()
    whole = {"loss", "accuracy"}
    return {tag if "/" not in tag or tag.partition("/")[0] in whole else f"{tag.partition('/')[0]}/<layer>" for tag in tags}


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float, tuple[float, ...]]]:
    """(step, epoch, the values of all) at every step that all `curves` have."""
    if not curves:
        return []
    by_step = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    shared = set(by_step[0]).intersection(*by_step[1:])
    return [
        (step, epoch, tuple(values[step] for values in by_step))
        for step, epoch in zip(curves[0].steps, curves[0].epochs, strict=True)
        if step in shared
    ]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _parsed(lines: Iterable[bytes], problems: list[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = parse_record(line)
            if not all(isinstance(value, int | float) for value in record.values.values()):
                raise ValueError("a value that is not a number")
            yield record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"metrics.jsonl holds a line that is no record ({type(error).__name__}: {error})")


def _one(lines: Sequence[bytes], place: int, problems: list[str]) -> Record | None:
    return next(_parsed([lines[place]], problems), None)


def _curve(tag: str, records: Sequence[Record]) -> Curve | None:
    """Of two records of one step the later counts: the run was resumed before it."""
    by_step = {record.step: record for record in records if tag in record.values}
    if not by_step:
        return None
    kept = [by_step[step] for step in sorted(by_step)]
    return Curve(
        tuple(record.step for record in kept),
        tuple(record.epoch for record in kept),
        tuple(record.time_s for record in kept),
        tuple(record.values[tag] for record in kept),
    )
