"""A sink that writes later, so that a GPU is not kept waiting for records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary

LEAST = 3
SHARE = 8
"""At each step, at least `LEAST` of the waiting calls are made, and one in `SHARE`."""


class DelayedSink(Sink):
    """Keeps records and histograms back and gives them to `sink` in their order, a few at each step, while the GPU computes.

    Every call but those and `progress` is preceded by all that waits.
    """

    essential = True

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, info: RunInfo) -> None:
        self._sink.start(info)

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        for _ in range(min(len(self._waiting), max(LEAST, len(self._waiting) // SHARE))):
            self._waiting.popleft()()
        self._sink.progress(step, epoch, values)

    def record(self, record: Record) -> None:
        self._waiting.append(lambda: self._sink.record(record))

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        self._waiting.append(lambda: self._sink.histogram(tag, step, edges, counts))

    def image(self, tag: str, step: int, png: bytes) -> None:
        self._flushed().image(tag, step, png)

    def text(self, tag: str, step: int, content: str) -> None:
        self._flushed().text(tag, step, content)

    def message(self, text: str, level: Level = "info") -> None:
        self._flushed().message(text, level)

    def restore(self, record: Record) -> None:
        self._flushed().restore(record)

    def flush(self) -> None:
        """Make all waiting calls."""
        while self._waiting:
            self._waiting.popleft()()
        self._sink.flush()

    def sync(self) -> Mapping[str, int]:
        return self._flushed().sync()

    def finish(self, summary: Summary) -> None:
        self._flushed().finish(summary)

    def close(self) -> None:
        self._flushed().close()

    def _flushed(self) -> Sink:
        self.flush()
        return self._sink
