"""One TensorBoard event file in the run folder: a view of the records.

Written with TensorBoard's own protocol buffers and in its record format, without `torch.utils.tensorboard` and without the writer
thread of its `EventFileWriter`: that one competes with the training for the interpreter, imports TensorFlow where it is
installed, and reports a full disk from another thread. All values of a record make one event.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2

from train.sinks import tensorboard_protos as values
from train.sinks.contracts import Record, RunInfo, Sink, Status, Summary
from train.sinks.hparams import HParamsRow
from train.sinks.tfrecord import is_whole
from train.sinks.tfrecord import tfrecord as in_record

# Generated modules, whose contents a type checker cannot see.
_event: Any = event_pb2
_summary: Any = summary_pb2

PREFIX = "events.out.tfevents"
_START = _event.SessionLog(status=_event.SessionLog.START)
"""Readers drop what they have read of the run's earlier files."""


class TensorBoardSink(Sink):
    """`config`: the run's resolved config as YAML, shown under Text; `arm`: the run's row in the HParams table, None for none;
    `flush_s`: how long a value may wait to be seen; `clock`: seconds since 1970.

    A run that is closed without `finish` has failed. One that is gone on with gets a new file, which begins with what the old one
    held up to the checkpoint. Its first events make a TensorBoard that is looking forget what it has read of the old one.
    """

    name = "TensorBoard"

    def __init__(
        self, config: str = "", arm: HParamsRow | None = None, flush_s: float = 15.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._arm = arm
        self._flush_s = flush_s
        self._clock = clock
        self._flushed_at = 0.0
        self._step = 0
        self._ended = False
        self._file: BufferedWriter | None = None
        self._continued = False

    def start(self, info: RunInfo) -> None:
        now = self._clock()
        before = [] if info.offsets is None else sorted(info.folder.glob(f"{PREFIX}.*"))
        kept = _kept(info, before)
        self._file = _new_path(info.folder, int(now), before).open("xb")
        self._continued = kept is not None
        if kept is not None:
            self._file.write(kept)
        else:
            self._introduce(now, with_table=not (info.folder.parent / values.SHARED_TABLE).exists())
        self._flush()
        for path in before:
            path.unlink()

    def _introduce(self, now: float, *, with_table: bool) -> None:
        self._append(_event.Event(wall_time=now, file_version="brain.Event:2"))
        self._append(_event.Event(wall_time=now, session_log=_START))
        self._write(0, [values.layout()])
        if self._arm is not None:
            table = [values.hparams_table(self._arm.values, self._arm.first, now)] if with_table else []
            self._write(0, [*table, *values.session_start(self._arm, now)])
        if self._config:
            self._write(0, [values.text("config", self._config)])

    def replay(self, record: Record) -> None:
        """Only where the file of the time before could not be gone on with."""
        if not self._continued:
            self.record(record)

    def sync(self) -> Mapping[str, int]:
        if self._file is None:
            return {}
        self._flush()
        os.fsync(self._file.fileno())
        return {PREFIX: self._file.tell()}

    def record(self, record: Record) -> None:
        self._step = record.step
        self._write(record.step, [values.scalar(tag, value) for tag, value in record.values.items()])

    def image(self, tag: str, step: int, png: bytes) -> None:
        """ValueError when `png` is something else."""
        self._write(step, [values.image(tag, png)])

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        """ValueError when there is not one edge more than counts."""
        self._write(step, [values.histogram(tag, edges, counts)])

    def finish(self, summary: Summary) -> None:
        self._step = summary.steps
        self._end(summary.status, summary)
        self._flush()

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self._end("failed")
        finally:
            file, self._file = self._file, None
            file.close()

    def _end(self, status: Status, summary: Summary | None = None) -> None:
        if self._arm is not None and not self._ended:
            self._ended = True
            self._write(self._step, [*values.outcome(status, summary), values.session_end(status, self._clock())])

    def _write(self, step: int, content: list[Any]) -> None:
        now = self._clock()
        self._append(_event.Event(wall_time=now, step=step, summary=_summary.Summary(value=content)))
        if now - self._flushed_at >= self._flush_s:
            self._flush()

    def _append(self, event: Any) -> None:
        if self._file is None:
            raise RuntimeError("a value before start() or after close()")
        self._file.write(in_record(event.SerializeToString()))

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            self._flushed_at = self._clock()


def _kept(info: RunInfo, before: Sequence[Path]) -> bytes | None:
    """The content of the earlier file up to the checkpoint; None where that is not to be had. There are several files where a
    process was killed as it began the last."""
    size = (info.offsets or {}).get(PREFIX)
    for path in reversed(before) if size is not None else ():
        with path.open("rb") as file:
            content = file.read(size)
        if len(content) == size and is_whole(content):
            return content
    return None


def _new_path(folder: Path, now: int, before: Sequence[Path]) -> Path:
    """Its name sorts behind all those of `before`, as TensorBoard reads them in this order."""
    times = [int(found) for path in before if (found := path.name.split(".")[3]).isdigit()]
    return folder / f"{PREFIX}.{max([now, *(time + 1 for time in times)]):010d}.{socket.gethostname()}.{os.getpid()}"
