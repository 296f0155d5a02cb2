"""metrics.jsonl: the primary record of a run; everything else is a view of it.

One JSON object per line: {"step": 20, "epoch": 0.5, "time_s": 1.25, "values": {"loss/train": 0.7, ...}}. JSON has no NaN and
no infinity, so these are written as the strings "NaN", "Infinity" and "-Infinity"; every finite float is restored bit-exact.
A record is one write of one line, so a killed process leaves at most one torn line, which readers skip.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from train.errors import RunError
from train.store.files import CHECKPOINTS_FOLDER, METRICS_FILE
from train.store.inside import Folder, RefusedError

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

INVALID = (ValueError,)
"""What `parse_record` raises for a line that is no record."""

MAX_LINE = 1 << 24
"""Limit of a line in bytes: twice what a record of ten thousand layers takes."""
_BLOCK = 1 << 18
_MAX_STEP = 1 << 53
_TAIL = 1 << 16
"""Bytes at the end of the file in which the last value of a tag is looked for first."""


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


Row = tuple[int, float, float, dict[str, float]]
"""The fields of a record: a report reads so many that making objects of them would count."""


def parse_record(line: bytes) -> Record:
    """Parse one line of the file. One of `INVALID` if it is no record: every value is a number, `step` a whole one from 0 on."""
    return Record(*parse_rows([line])[0])


def parse_rows(lines: Sequence[bytes]) -> list[Row]:
    """Parse several lines at once, which takes half the time. One of `INVALID` if any of them is no record."""
    text = b",".join(lines)
    has_escape = b"\\u" in text
    try:
        rows = json.loads(b"[%b]" % text)
        if len(rows) != len(lines):
            raise ValueError("a line holds more or less than one value")
        return [_row(content, has_escape) for content in rows]
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _row(content: Any, has_escape: bool) -> Row:
    step, epoch, time_s, values = content["step"], content["epoch"], content["time_s"], content["values"]
    if type(step) is not int or not 0 <= step <= _MAX_STEP or not _is_finite(epoch) or not _is_finite(time_s):
        raise ValueError("its step, epoch or time is no such number")
    if set(map(type, values.values())) - _FLOAT:
        values = {tag: _number(value) for tag, value in values.items()}
    if has_escape:  # it may be half of a character
        "".join(values).encode()
    return step, float(epoch), float(time_s), values


_FLOAT = frozenset({float})


def _number(value: object) -> float:
    if type(value) not in (float, int, str):
        raise ValueError("a value is not a number")
    return decode_float(value)  # pyright: ignore[reportArgumentType]


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


def last_value(path: Path, tag: str) -> float | None:
    """Return the last recorded value of a tag; None if there is none, or the file cannot be read.

    Reads the end of the file, and the whole only where the tag is not there.
    """
    mark = json.dumps(tag).encode()
    try:
        *lines, _ = Folder(path.parent).tail(path.name, _TAIL).split(b"\n")
        ends = (_value(line, mark, tag) for line in reversed(lines[1:]))
        found = next((value for value in ends if value is not None), None)
        if found is None:
            values = (_value(line, mark, tag) for line in complete_lines(path))
            last = deque((value for value in values if value is not None), maxlen=1)
            return last[0] if last else None
        return found
    except OSError:
        return None


def last_record(path: Path) -> Record | None:
    """Return the last record, from the end of the file alone; None if there is none, or the file cannot be read."""
    try:
        *lines, _ = Folder(path.parent).tail(path.name, _TAIL).split(b"\n")
        return parse_record(lines[-1]) if lines else None
    except (OSError, *INVALID):
        return None


def _value(line: bytes, mark: bytes, tag: str) -> float | None:
    try:
        return parse_record(line).values.get(tag) if mark in line else None
    except INVALID:
        return None


def read_lines(path: Path, offset: int = 0) -> list[bytes]:
    """Return the lines of `complete_lines`."""
    return [*complete_lines(path, offset)]


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, the last perhaps without an end. RefusedError for one that is longer than any record."""
    rest = b""
    while block := file.read(_BLOCK):  # at half the cost of a call for each line
        *lines, rest = (rest + block).split(b"\n")
        if max(map(len, (rest, *lines))) >= MAX_LINE:
            raise RefusedError(Path(METRICS_FILE), f"has a line of more than {MAX_LINE:,} bytes")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


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
