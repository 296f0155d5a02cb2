"""metrics.jsonl: the primary record of a run; everything else is a view of it.

One JSON object per line: {"step": 20, "epoch": 0.5, "time_s": 1.25, "values": {"loss/train": 0.7, ...}}. JSON has no NaN and
no infinity, so these are written as the strings "NaN", "Infinity" and "-Infinity"; every finite float is restored bit-exact.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import cast

from train.errors import RunError
from train.sinks.contracts import Record, RunInfo, Sink

FILE_NAME = "metrics.jsonl"
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


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


class JsonlSink(Sink):
    """Appends each record to `metrics.jsonl` in the run folder. OSError when writing fails.

    Each record is one write of one line, so a killed process leaves at most one torn line. An existing file is continued, after
    truncating its torn end, or everything written after the checkpoint from which the run resumes.
    """

    name = FILE_NAME
    essential = True

    def __init__(self) -> None:
        self._file: FileIO | None = None

    def start(self, info: RunInfo) -> None:
        path = info.folder / FILE_NAME
        offset = (info.offsets or {}).get(FILE_NAME)
        if offset is not None and path.exists() and path.stat().st_size > offset:
            os.truncate(path, offset)
        _truncate_torn_line(path)
        self._file = FileIO(path, "ab")

    def record(self, record: Record) -> None:
        if self._file is None:
            raise RuntimeError("a record before start() or after close()")
        line = memoryview(_encode_line(record))
        while line:
            line = line[self._file.write(line) :]

    def sync(self) -> Mapping[str, int]:
        if self._file is None:
            return {}
        os.fsync(self._file.fileno())
        return {FILE_NAME: os.fstat(self._file.fileno()).st_size}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of one `metrics.jsonl` in the order of writing.

    A torn last line is skipped, so a file that is still being written can be read. RunError, with the line number, for any other
    invalid line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse_record(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(f"{path}, line {number}: not a valid record ({type(error).__name__}: {error}).") from error


def _encode_line(record: Record) -> bytes:
    row: dict[str, object] = {"step": record.step, "epoch": record.epoch, "time_s": record.time_s, "values": dict(record.values)}
    try:
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    except ValueError:  # rare: the C encoder is several times faster than checking every value first
        row["values"] = {tag: encode_float(value) for tag, value in record.values.items()}
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def parse_record(line: bytes) -> Record:
    """Parse one line of the file. ValueError, KeyError, TypeError or AttributeError if it is invalid."""
    row = json.loads(line)
    values = cast(Mapping[str, float], row["values"])
    if b'"NaN"' in line or b'Infinity"' in line:
        values = {tag: decode_float(value) for tag, value in values.items()}
    return Record(int(row["step"]), float(row["epoch"]), float(row["time_s"]), values)


def _truncate_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        complete_bytes = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(complete_bytes)
