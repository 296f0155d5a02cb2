"""Signals only set a flag; every loop polls it and ends at a step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """`signal` is the number of the first signal that asked the run to end, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number


@contextmanager
def listening() -> Iterator[Stop]:
    """Inside, SIGINT and SIGTERM set the flag. In a thread, where Python cannot do that, the flag stays unset."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
