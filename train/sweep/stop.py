"""The signals that stop a sweep."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from train.run.signals import stop_signals


class SignalCounter:
    """A counter of signals to stop: the first requests an orderly end, the second an immediate one.

    `at_second`: called at once at the second and later ones, so that nothing keeps the sweep waiting.
    """

    def __init__(self, at_second: Callable[[], None]) -> None:
        self.first: int | None = None
        self.count = 0
        self._at_second = at_second

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count signals inside the block. Outside the main thread Python allows no handlers, so signals keep their effect."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._count_signal) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _count_signal(self, number: int, _: object) -> None:
        self.first = number if self.first is None else self.first
        self.count += 1
        if self.count > 1:
            self._at_second()
