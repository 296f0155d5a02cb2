"""Lines of text, for a log file, a pipe or a terminal that cannot move its cursor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TextIO

from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.number_text import duration, number
from train.sinks.progress import RunProgress
from train.sinks.run_text import header_lines, outcome_line, summary_rows, tensorboard_command


class LineSink(Sink):
    """Gives `write` one line at a time: one for each evaluation (a record with a value of validation) and, between these,
    one every `every_s` seconds, all of the form `step=120/1560 epoch=0.77/10 loss/train=0.4321 accuracy/train=84.1% ...`."""

    name = "the plain output"

    def __init__(self, write: Callable[[str], None], every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._every_s = every_s
        self._clock = clock
        self._last = clock()
        self._pace: RunProgress | None = None

    def start(self, info: RunInfo) -> None:
        self._pace = RunProgress(info)
        self._last = self._clock()
        for line in header_lines(info):
            self._write(line)

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if self._pace is None:
            return
        now = self._clock()
        self._pace.update(now, step, epoch, values)
        if now - self._last >= self._every_s:
            self._line(self._pace)

    def record(self, record: Record) -> None:
        if self._pace is None:
            return
        self._pace.update(self._clock(), record.step, record.epoch, record.values)
        if any(tag.endswith("/val") for tag in record.values):
            self._line(self._pace)

    def message(self, text: str, level: Level = "info") -> None:
        for line in text.splitlines():
            self._write(line if level == "info" else f"{level}: {line}")

    def finish(self, summary: Summary) -> None:
        total = self._pace.info.total_steps if self._pace is not None else summary.steps
        self._write(outcome_line(summary))
        for row in summary_rows(summary, total, plus_minus="+-"):
            self._write(f"{row.label}: {row.value}" + (f" ({row.detail})" if row.detail else ""))
        self._write(f"folder: {summary.folder}")
        self._write(f"look at it: {tensorboard_command(summary)}")

    def _line(self, pace: RunProgress) -> None:
        self._last = self._clock()
        fields = [f"step={pace.step}/{pace.info.total_steps}", f"epoch={pace.epoch:.2f}/{pace.info.epochs:g}"]
        for tag, value in pace.values.items():
            fields.append(f"{tag}={100 * value:.1f}%" if tag.startswith("accuracy/") else f"{tag}={number(value)}")
        if pace.images_per_s is not None:
            fields.append(f"images_per_s={pace.images_per_s:.0f}")
        if pace.remaining_s is not None:
            fields.append(f"left={duration(pace.remaining_s).replace(' ', '')}")
        self._write(" ".join(fields))


def line_writer(stream: TextIO) -> Callable[[str], None]:
    """`write` for `PlainSink`: one flushed line of `stream`; characters that its encoding lacks become escapes."""
    encoding = stream.encoding or "utf-8"

    def write(line: str) -> None:
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()

    return write
