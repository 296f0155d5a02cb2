"""Plain lines of output for a log file, a pipe or a terminal that cannot move its cursor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from train import escape
from train.command import tensorboard_command
from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.progress import RunProgress
from train.sinks.run_text import header_lines, outcome_lines, summary_rows
from train.tags import split
from train.text import duration, number, percent


class LineSink(Sink):
    """Reports a run in plain lines, passed to `write` one at a time.

    It writes a line for each evaluation (a record with a validation value) and, in between, one every `every_s` seconds. Each has
    the form `step=120/1560 epoch=0.77/10 loss/train=0.4321 accuracy/train=84.1% ...`.
    """

    name = "the plain output"

    def __init__(self, write: Callable[[str], None], every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._every_s = every_s
        self._clock = clock
        self._written_at = clock()
        self._progress: RunProgress | None = None

    def start(self, info: RunInfo) -> None:
        self._progress = RunProgress(info)
        self._written_at = self._clock()
        for line in header_lines(info):
            self._write(line)

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if self._progress is None:
            return
        now = self._clock()
        self._progress.update(now, step, epoch, values)
        if now - self._written_at >= self._every_s:
            self._write_line(self._progress)

    def record(self, record: Record) -> None:
        if self._progress is None:
            return
        self._progress.update(self._clock(), record.step, record.epoch, record.values)
        if any(tag.endswith("/val") for tag in record.values):
            self._write_line(self._progress)

    def message(self, text: str, level: Level = "info") -> None:
        for line in text.splitlines():
            self._write(line if level == "info" else f"{level}: {line}")

    def finish(self, summary: Summary) -> None:
        total = self._progress.info.total_steps if self._progress is not None else summary.steps
        for line in outcome_lines(summary):
            self._write(line)
        for row in summary_rows(summary, total, plus_minus="+-"):
            self._write(f"{row.label}: {row.value}" + (f" ({row.detail})" if row.detail else ""))
        self._write(f"folder: {summary.folder}")
        self._write(f"view: {tensorboard_command(summary.folder.parent)}")

    def _write_line(self, progress: RunProgress) -> None:
        self._written_at = self._clock()
        fields = [f"step={progress.step}/{progress.info.total_steps}", f"epoch={progress.epoch:.2f}/{progress.info.epochs:g}"]
        for tag, value in progress.values.items():
            fields.append(f"{tag}={percent(value).replace(' ', '') if split(tag)[0] == 'accuracy' else number(value)}")
        if progress.images_per_s is not None:
            fields.append(f"images_per_s={progress.images_per_s:.0f}")
        if progress.remaining_s is not None:
            fields.append(f"left={duration(progress.remaining_s).replace(' ', '')}")
        self._write(" ".join(fields))


def line_writer(stream: TextIO) -> Callable[[str], None]:
    """Return a `write` for `LineSink` that flushes every line to `stream`, with all characters shown that its encoding has."""
    encoding = stream.encoding or "utf-8"

    def write(line: str) -> None:
        stream.write(escape.line(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()

    return write


def is_live(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def stream_sink(stream: TextIO) -> Sink:
    """Return the live view if `stream` is a terminal that can move its cursor, plain lines otherwise."""
    if not is_live(stream):
        return LineSink(line_writer(stream))
    from rich.console import Console

    from train.sinks.console import ConsoleSink

    return ConsoleSink(Console(file=stream, highlight=False, markup=False))
