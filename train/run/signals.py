"""Signals only set a flag; every loop polls it and ends at a step boundary. Where nothing can be lost they end it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from train.errors import Interrupted, RunError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVE_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""Slurm's usual warning before the time is up. Windows has no such signal."""


@dataclass(frozen=True)
class Requeue:
    """What submitit does with a job that must give way, since its time is up or its place is wanted: `handler`, which it has
    installed for the signal `number`, queues the job again and ends the process; or raises when the job is not to begin again."""

    number: int
    handler: Callable[[int, FrameType | None], object]


class StopSignal:
    """`signal` is the number of the first signal that asked the run to end, or None. `requeue`: in a job of submitit."""

    def __init__(self, requeue: Requeue | None = None) -> None:
        self.signal: int | None = None
        self._requeue = requeue
        self._gives_way = False
        self._save = False
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def pop_save_request(self) -> bool:
        """Whether a signal has asked for a checkpoint since the last time."""
        asked, self._save = self._save, False
        return asked

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal to end raises `Interrupted` where it arrives; also one that came before."""
        before, self._at_once = self._at_once, True
        try:
            self._raise()
            yield
        finally:
            self._at_once = before

    def requeue(self) -> None:
        """Hand over to submitit where it has asked for that. It does not return, or RunError: the job is not queued again."""
        if self._requeue is None or not self._gives_way:
            return
        try:
            self._requeue.handler(self._requeue.number, None)
        except Exception as error:
            name = signal_name(self._requeue.number)
            raise RunError(f"{name}: the run is interrupted, and its job does not begin again: {error}") from error

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self._requeue is not None and number == self._requeue.number:
            self._gives_way = True  # also when another signal came first, as where SIGTERM announces it
        elif number == SAVE_SIGNAL:
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
def handle_signals() -> Iterator[StopSignal]:
    """Inside, signals set the flag. In a thread, where Python cannot do that, the flag stays unset.

    In a job of submitit `Interrupted` ends the process: its job is queued again where submitit asked for that, else the exit code
    is that of the signal. A run that ends otherwise is over, and its job is not queued again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopSignal()
        return
    requeue = requeue_of_submitit()
    stop = StopSignal(requeue)
    numbers = {*STOP_SIGNALS, *([SAVE_SIGNAL] if SAVE_SIGNAL is not None else []), *([requeue.number] if requeue else [])}
    before = {number: signal.signal(number, stop._ask) for number in numbers}
    after = before | ({requeue.number: signal.SIG_IGN} if requeue else {})
    try:
        yield stop
    except Interrupted as error:
        if requeue is None:
            raise
        stop.requeue()
        after = before  # it may still be asked to
        raise SystemExit(error.exit_code) from None  # submitit would take it for Ctrl-C and die of SIGINT
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)


def requeue_of_submitit() -> Requeue | None:
    """None outside of submitit's jobs. The names of its variables: submitit/core/job_environment.py."""
    name = "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    if "SUBMITIT_EXECUTOR" not in os.environ or name not in signal.Signals.__members__:
        return None
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    return Requeue(number, handler) if callable(handler) else None


def signal_name(number: int) -> str:
    """15 -> 'SIGTERM'; 'signal 40' for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_with_number(number: int) -> str:
    """9 -> 'SIGKILL (signal 9)': for who looks the number up."""
    name = signal_name(number)
    return name if name == f"signal {number}" else f"{name} (signal {number})"
