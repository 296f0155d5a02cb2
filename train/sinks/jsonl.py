"""The sink that writes metrics.jsonl, the primary record of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO

from train.sinks.contracts import RunInfo, Sink
from train.store.files import METRICS_FILE
from train.store.metrics import Record, format_record, open_to_append


class JsonlSink(Sink):
    """Appends each record to `metrics.jsonl` in the run folder. OSError when writing fails.

    An existing file is continued, from the checkpoint on from which the run resumes.
    """

    name = METRICS_FILE
    essential = True

    def __init__(self) -> None:
        self._file: FileIO | None = None

    def start(self, info: RunInfo) -> None:
        self._file = open_to_append(info.folder / METRICS_FILE, (info.offsets or {}).get(METRICS_FILE))

    def record(self, record: Record) -> None:
        if self._file is None:
            raise RuntimeError("a record before start() or after close()")
        line = memoryview(format_record(record))
        while line:
            line = line[self._file.write(line) :]

    def sync(self) -> Mapping[str, int]:
        if self._file is None:
            return {}
        os.fsync(self._file.fileno())
        return {METRICS_FILE: os.fstat(self._file.fileno()).st_size}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
