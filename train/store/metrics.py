"""metrics.jsonl: the primary record of a run; everything else is a view of it.

One JSON object per line: {"step": 20, "epoch": 0.5, "time_s": 1.25, "values": {"loss/train": 0.7, ...}}. JSON has no NaN and
no infinity, so these are written as the strings "NaN", "Infinity" and "-Infinity"; every finite float is restored bit-exact.
A record is one write of one line, so a killed process leaves at most one torn line, which readers skip.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from train.errors import RunError
from train.store.files import CHECKPOINTS_FOLDER, METRICS_FILE
from train.store.inside import Folder, RefusedError

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

INVALID = (ValueError,)
"""What `parse_record` raises for a line that is no record."""

MAX_LINE = 1 << 24
"""Limit of a line in bytes: twice what a record of ten thousand layers takes."""
_MAX_STEP = 1 << 53


@dataclass(frozen=True)
class Record:
    """One row of the run's history, on the host.

    `step`: completed updates; `epoch`: passes over the training images, fractional; `time_s`: seconds since the run started.
    `values`: TensorBoard tag -> number: `loss/train`, `accuracy/val` (a fraction), `lr`, `activation_std/<layer>`, ...
    NaN and infinities are valid values.
    """

    step: int
    epoch: float
    time_s: float
    values: Mapping[str, float]


def encode_float(value: float) -> float | str:
    """Return a float in a form that standard JSON can hold."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_float(value: float | str) -> float:
    """Invert `encode_float`. ValueError for any other string."""
    if not isinstance(value, str):
        return float(value)
    if value not in _NON_FINITE:
        raise ValueError(f"{value!r} is not a number")
    return _NON_FINITE[value]


def format_record(record: Record) -> bytes:
    """Return the line of a record."""
    row: dict[str, object] = {"step": record.step, "epoch": record.epoch, "time_s": record.time_s, "values": dict(record.values)}
    try:
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    except ValueError:  # rare: the C encoder is several times faster than checking every value first
        row["values"] = {tag: encode_float(value) for tag, value in record.values.items()}
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def parse_record(line: bytes) -> Record:
    """Parse one line of the file. One of `INVALID` if it is no record: every value is a number, `step` a whole one from 0 on."""
    try:
        row = json.loads(line)
        step, epoch, time_s, values = row["step"], row["epoch"], row["time_s"], row["values"]
        if b'"NaN"' in line or b'Infinity"' in line:
            values = {tag: decode_float(value) for tag, value in values.items()}
        kinds = set(map(type, values.values()))
        if not kinds <= {float, int}:
            raise ValueError("a value is not a number")
        if int in kinds:
            values = {tag: float(value) for tag, value in values.items()}
        if type(step) is not int or not 0 <= step <= _MAX_STEP or not all(_is_finite(value) for value in (epoch, time_s)):
            raise ValueError("its step, epoch or time is no such number")
        if b"\\u" in line:  # an escape may be half of a character
            "".join(values).encode()
        return Record(step, float(epoch), float(time_s), values)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _is_finite(value: object) -> bool:
    return type(value) in (float, int) and math.isfinite(value)  # pyright: ignore[reportArgumentType]


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records in the order of writing, also while the file is being written. RunError names an invalid line."""
    with Folder(path.parent).open(path.name) as file:
        for number, line in enumerate(_with_ends(file), start=1):
            try:
                yield parse_record(line)
            except INVALID as error:
                raise RunError(f"{path}, line {number}: not a valid record ({type(error).__name__}: {error}).") from error


def complete_lines(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the complete lines from byte `offset` on, with their ends, one at a time; none if there is no file.

    `offset` plus their lengths is the offset of the lines that are yet to come. OSError when reading fails.
    """
    try:
        with Folder(path.parent).open(path.name) as file:
            file.seek(offset)
            yield from _with_ends(file)
    except FileNotFoundError:
        return


def read_lines(path: Path, offset: int = 0) -> list[bytes]:
    """Return the lines of `complete_lines`."""
    return [*complete_lines(path, offset)]


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, the last perhaps without an end. RefusedError for one that is longer than any record."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise RefusedError(Path(METRICS_FILE), f"has a line of more than {MAX_LINE:,} bytes")
        yield line


def _with_ends(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in bounded_lines(file) if line.endswith(b"\n"))


def open_to_append(path: Path, offset: int | None = None) -> FileIO:
    """Open the file to continue it, without its torn end and without what was written beyond byte `offset`.

    RunError when it ends before that byte: records that the checkpoint follows are gone.
    """
    folder = Folder(path.parent)
    found = folder.stat(path.name)
    if offset and (found is None or found.st_size < offset):
        checkpoints = path.parent / CHECKPOINTS_FOLDER
        raise RunError(f"{path}: records before the checkpoint are gone. To start again from step 0, remove {checkpoints}.")
    file = folder.append(path.name)
    try:
        if offset is not None and os.fstat(file.fileno()).st_size > offset:
            file.truncate(offset)
        with Folder(path.parent).open(path.name) as written:
            file.truncate(sum(map(len, _with_ends(written))))
    except BaseException:
        file.close()
        raise
    return file
