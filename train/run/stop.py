"""Signals only set a flag; every loop polls it and ends at a step boundary. Where nothing can be lost they end it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from train.errors import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM)
SAVING: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""Slurm's usual warning before the time is up. Windows has no such signal."""


class Stop:
    """`signal` is the number of the first signal that asked the run to end, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._save = False
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def take_save(self) -> bool:
        """Whether a signal has asked for a checkpoint since the last time."""
        asked, self._save = self._save, False
        return asked

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal to end raises `Interrupted` where it arrives; also one that came before."""
        before, self._at_once = self._at_once, True
        try:
            self._raise()
            yield
        finally:
            self._at_once = before

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number == SAVING:
            self._save = True
            return
        if self.signal is None:
            self.signal = number
        if self._at_once:
            self._raise()

    def _raise(self) -> None:
        if self.signal is not None:
            raise Interrupted(self.signal)


@contextmanager
def listening() -> Iterator[Stop]:
    """Inside, signals set the flag. In a thread, where Python cannot do that, the flag stays unset."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [*ENDING, *([SAVING] if SAVING is not None else [])]
    before = {number: signal.signal(number, stop._ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """15 -> 'SIGTERM'; 'signal 40' for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_in_full(number: int) -> str:
    """9 -> 'SIGKILL (signal 9)': for who looks the number up."""
    name = signal_name(number)
    return name if name == f"signal {number}" else f"{name} (signal {number})"
