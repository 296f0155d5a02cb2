"""One TensorBoard event file in the run folder: a view of the records.

Written with TensorBoard's own protocol buffers and record format, without `torch.utils.tensorboard` and without the writer
thread of its `EventFileWriter`: that one competes with the training for the interpreter, imports TensorFlow where it is
installed, and reports a full disk from another thread. All values of a record make one event.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from train.sinks.contracts import Record, RunInfo, Sink, Summary

# Generated modules, whose contents a type checker cannot see.
_event: Any = event_pb2
_summary: Any = summary_pb2
_tensor: Any = tensor_pb2
_types: Any = types_pb2

_PNG_START = b"\x89PNG\r\n\x1a\n"
_COLORSPACE_RGBA = 4


class TensorBoardSink(Sink):
    """`config`: the run's resolved config as YAML, shown under Text; `flush_s`: how long a value may wait to be seen;
    `clock`: seconds since 1970."""

    name = "TensorBoard"

    def __init__(self, config: str = "", flush_s: float = 15.0, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._flush_s = flush_s
        self._clock = clock
        self._flushed_at = 0.0
        self._writer: RecordWriter | None = None

    def start(self, info: RunInfo) -> None:
        now = self._clock()
        path = info.folder / f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(path.open("xb"))
        self._writer.write(_event.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        if self._config:
            self._write(0, [_text("config", self._config)])
        self._flush()

    def record(self, record: Record) -> None:
        self._write(record.step, [_summary.Summary.Value(tag=tag, simple_value=value) for tag, value in record.values.items()])

    def image(self, tag: str, step: int, png: bytes) -> None:
        """ValueError when `png` is something else."""
        if not png.startswith(_PNG_START):
            raise ValueError(f"image {tag}: not a PNG")
        width, height = struct.unpack(">II", png[16:24])
        picture = _summary.Summary.Image(width=width, height=height, colorspace=_COLORSPACE_RGBA, encoded_image_string=png)
        self._write(step, [_summary.Summary.Value(tag=tag, image=picture)])

    def finish(self, summary: Summary) -> None:  # noqa: ARG002
        self._flush()

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _write(self, step: int, values: list[Any]) -> None:
        if self._writer is None:
            raise RuntimeError("a value before start() or after close()")
        now = self._clock()
        event = _event.Event(wall_time=now, step=step, summary=_summary.Summary(value=values))
        self._writer.write(event.SerializeToString())
        if now - self._flushed_at >= self._flush_s:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._flushed_at = self._clock()


def _text(tag: str, text: str) -> Any:
    # TensorBoard renders Markdown: four spaces keep any text as it is, where a fence would end at the first ``` within.
    code = "\n".join("    " + line for line in text.splitlines())
    tensor = _tensor.TensorProto(dtype=_types.DT_STRING, string_val=[code.encode()])
    metadata = _summary.SummaryMetadata(plugin_data=_summary.SummaryMetadata.PluginData(plugin_name="text"))
    return _summary.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
