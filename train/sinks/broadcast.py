"""A sink that forwards to several sinks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary

_log = logging.getLogger(__name__)


class BroadcastSink(Sink):
    """Forwards every call to each of `sinks`, in their order; without sinks it does nothing.

    A view that raises is closed and dropped, with one warning to the others. The exception of an essential sink propagates to the
    caller.
    """

    essential = True

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)

    def start(self, info: RunInfo) -> None:
        self._each(lambda sink: sink.start(info))

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        self._each(lambda sink: sink.progress(step, epoch, values))

    def record(self, record: Record) -> None:
        self._each(lambda sink: sink.record(record))

    def image(self, tag: str, step: int, png: bytes) -> None:
        self._each(lambda sink: sink.image(tag, step, png))

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        self._each(lambda sink: sink.histogram(tag, step, edges, counts))

    def text(self, tag: str, step: int, content: str) -> None:
        self._each(lambda sink: sink.text(tag, step, content))

    def message(self, text: str, level: Level = "info") -> None:
        self._each(lambda sink: sink.message(text, level))

    def restore(self, record: Record) -> None:
        self._each(lambda sink: sink.restore(record))

    def flush(self) -> None:
        self._each(lambda sink: sink.flush())

    def sync(self) -> Mapping[str, int]:
        offsets: dict[str, int] = {}
        self._each(lambda sink: offsets.update(sink.sync()))
        return offsets

    def finish(self, summary: Summary) -> None:
        self._each(lambda sink: sink.finish(summary))

    def close(self) -> None:
        """Close every sink, even if one of them fails, then raise the first failure of an essential sink."""
        failures: list[Exception] = []
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                _log.info("closing %s failed", sink.name, exc_info=error)
                if sink.essential:
                    failures.append(error)
        if failures:
            raise failures[0]

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:
                if sink.essential:
                    raise
                self._drop(sink, error)

    def _drop(self, sink: Sink, error: Exception) -> None:
        # The warning about one failing view may have made another one fail, which was dropped meanwhile.
        if sink not in self._sinks:
            return
        self._sinks.remove(sink)
        _log.info("%s failed", sink.name, exc_info=error)
        try:
            sink.close()
        except Exception as close_error:
            _log.info("closing %s failed too", sink.name, exc_info=close_error)
        self.message(
            f"{sink.name}: disabled after an error ({type(error).__name__}: {error}). The run continues without it.", "warning"
        )
