"""One TensorBoard event file in the run folder: a view of the records.

It uses TensorBoard's protocol buffers and record format, but not `torch.utils.tensorboard`: the writer thread of its
`EventFileWriter` competes with the training for the interpreter, imports TensorFlow where it is installed, and reports a full
disk from another thread. All values of a record form one event.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto import event_pb2, summary_pb2

from train.sinks import tensorboard_protos as values
from train.sinks.contracts import TEXTS, Record, RunInfo, Sink, Status, Summary
from train.sinks.hparams import HParamsRow, named_in_sweep
from train.sinks.run_text import outcome_lines, summary_rows
from train.sinks.tensorboard_protos import is_whole, tfrecord
from train.store.files import EVENTS
from train.store.inside import Folder

# Generated modules, whose contents a type checker cannot see.
_event: Any = event_pb2
_summary: Any = summary_pb2

_TIME = re.compile("[0-9]{1,12}")
LARGEST_VIEW = 1 << 32
"""Bytes of an event file that is continued, for which it is in memory at once. A larger one is written anew from the records."""
IMAGES_SUFFIX = ".images"
"""The end of the name of an `ImageFile`."""
_START = _event.SessionLog(status=_event.SessionLog.START)
"""Makes readers drop what they have read from the run's earlier files."""


class TensorBoardSink(Sink):
    """Writes a run to a TensorBoard event file.

    `config`: the run's resolved config as YAML, and `command`, which makes it, shown under Text; `arm`: the run's row in the
    HParams table, None for none;
    `flush_s`: maximum delay in seconds until a value is visible; `clock`: seconds since 1970.

    Closing without `finish` marks the run as failed. A resumed run writes a new file that starts with the old one's content up to
    the checkpoint; its SessionLog.START makes a running TensorBoard drop what it had read.
    """

    name = "TensorBoard"

    def __init__(
        self,
        config: str = "",
        arm: HParamsRow | None = None,
        flush_s: float = 15.0,
        clock: Callable[[], float] = time.time,
        command: str = "",
    ) -> None:
        self._config = config
        self._command = command
        self._total = 0
        self._arm = arm
        self._flush_s = flush_s
        self._clock = clock
        self._flushed_at = 0.0
        self._step = 0
        self._ended = False
        self._file: BinaryIO | None = None
        self._is_continued = self._has_layout = False

    def start(self, info: RunInfo) -> None:
        now = self._clock()
        self._total = info.total_steps
        folder = Folder(info.folder)
        previous = [] if info.offsets is None else _event_files(folder)
        content = _content_before_checkpoint(info, previous)
        self._file = folder.create(_new_name(int(now), previous))
        self._is_continued = self._has_layout = content is not None
        if content is not None:
            self._file.write(content)
        else:
            self._write_header(now, info.folder)
        self._flush()
        for name in previous:
            folder.remove(name)

    def _write_header(self, now: float, folder: Path) -> None:
        self._append(_event.Event(wall_time=now, file_version="brain.Event:2"))
        self._append(_event.Event(wall_time=now, session_log=_START))
        if self._arm is not None:
            is_shared = Folder(folder.parent).exists(values.SHARED_TABLE)
            table = [] if is_shared else [values.hparams_table(self._arm.values, self._arm.first, now)]
            self._write(0, [*table, *values.session_start(named_in_sweep(self._arm, folder), now)])
        if self._command:
            self._write(0, [values.text(TEXTS["command"], self._command)])
        if self._config:
            self._write(0, [values.text("config", self._config)])

    def restore(self, record: Record) -> None:
        """Rewrite an earlier record, needed only if the previous event file could not be continued."""
        if not self._is_continued:
            self.record(record)

    def sync(self) -> Mapping[str, int]:
        if self._file is None:
            return {}
        self._flush()
        os.fsync(self._file.fileno())
        return {EVENTS: self._file.tell()}

    def record(self, record: Record) -> None:
        self._step = record.step
        content = [values.scalar(tag, value) for tag, value in record.values.items()]
        if not self._has_layout:  # the first record, before any update, has all layers
            self._has_layout = True
            content.append(values.layout(record.values))
        self._write(record.step, content)

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Write an image. ValueError when `png` is not a PNG."""
        self._write(step, [values.image(tag, png)])

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        """Write a histogram. ValueError unless there is one edge more than counts."""
        self._write(step, [values.histogram(tag, edges, counts)])

    def text(self, tag: str, step: int, content: str) -> None:
        self._write(step, [values.text(tag, content)])

    def finish(self, summary: Summary) -> None:
        self._step = summary.steps
        rows = summary_rows(summary, self._total)
        lines = [*outcome_lines(summary), *(f"{row.label}: {row.value}{row.detail and f' ({row.detail})'}" for row in rows)]
        self._write(summary.steps, [values.text(TEXTS["result"], "\n".join(lines))])
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
            raise RuntimeError("a value was written before start() or after close()")
        self._file.write(tfrecord(event.SerializeToString()))

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            self._flushed_at = self._clock()


class ImageFile(Sink):
    """An event file of images alone, beside the one of a run that has ended. It comes into being with the first image."""

    def __init__(self, folder: Path) -> None:
        self._folder = Folder(folder)
        self._name = _new_name(int(time.time()), _event_files(self._folder)) + IMAGES_SUFFIX
        self._head = tfrecord(_event.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Write an image. ValueError when `png` is not a PNG."""
        summary = _summary.Summary(value=[values.image(tag, png)])
        event = _event.Event(wall_time=time.time(), step=step, summary=summary)
        with self._folder.append(self._name) as file:
            file.write(self._head + tfrecord(event.SerializeToString()))
        self._head = b""


def stored_histograms(info: RunInfo) -> Iterator[tuple[str, int, list[float], list[float]]]:
    """Yield tag, step, edges and counts of the histograms that a resumed run had written before its checkpoint."""
    content = _content_before_checkpoint(info, _event_files(Folder(info.folder))) or b""
    for data in values.records(content):
        if values.HISTOGRAMS in data:
            event = _event.Event.FromString(data)
            for tag, edges, counts in values.histograms_in(event.summary):
                yield tag, event.step, edges, counts


def _event_files(folder: Folder) -> list[str]:
    """Return the names of the event files in a run folder, sorted."""
    return [name for name in folder.names() if name.startswith(f"{EVENTS}.")]


def _content_before_checkpoint(info: RunInfo, previous: Sequence[str]) -> bytes | None:
    """Return the content of the previous event file up to the checkpoint, None if it is not available.

    There are several files if a process was killed just after it had created the last one.
    """
    size = (info.offsets or {}).get(EVENTS)
    candidates = [name for name in reversed(previous) if not name.endswith(IMAGES_SUFFIX)]
    if size is None or size > LARGEST_VIEW:
        return None
    for name in candidates:
        with Folder(info.folder).open(name) as file:
            content = file.read(size) if os.fstat(file.fileno()).st_size >= size else b""
        if len(content) == size and is_whole(content):
            return content
    return None


def _new_name(now: int, previous: Sequence[str]) -> str:
    """Return a name that sorts after all of `previous`, because TensorBoard reads event files in this order."""
    times = [int(timestamp) for name in previous if _TIME.fullmatch(timestamp := name.split(".")[3])]
    return f"{EVENTS}.{max([now, *(time + 1 for time in times)]):010d}.{socket.gethostname()}.{os.getpid()}"
