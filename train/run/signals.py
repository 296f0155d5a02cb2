"""Signal handling: signals set a flag, which every loop polls at step boundaries. They raise at once if nothing can be lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from train.errors import Interrupted, RunError

SAVE_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""The usual warning of Slurm before the time limit. Windows has no such signal."""
HELD_SIGNALS = {number for number in signal.Signals if number.name in {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}}
"""The signals that a terminal or a batch system sends to every process."""


def stop_signals() -> set[signal.Signals]:
    """Return the signals that ask a run or a sweep to stop. SIGHUP, a closed terminal, is one unless it is ignored (`nohup`)."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return {signal.SIGINT, signal.SIGTERM}
    return {signal.SIGINT, signal.SIGTERM, hangup}


@dataclass(frozen=True)
class Requeue:
    """The handler of submitit for a job that is out of time or preempted, installed for the signal `number`. It requeues the job
    and ends the process, or raises when the job must not restart."""

    number: int
    handler: Callable[[int, FrameType | None], object]


class StopSignal:
    """The stop flag of a run. `signal`: number of the first signal to stop, or None; `requeue`: for a job of submitit."""

    def __init__(self, requeue: Requeue | None = None) -> None:
        self.signal: int | None = None
        self._requeue = requeue
        self._preempted = False
        self._save = False
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def pop_save_request(self) -> bool:
        """Return whether a signal has requested a checkpoint since the last call."""
        requested, self._save = self._save, False
        return requested

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise `Interrupted` inside the context wherever a signal to stop arrives, or at once for an earlier one."""
        previous, self._at_once = self._at_once, True
        try:
            self._raise()
            yield
        finally:
            self._at_once = previous

    def requeue(self) -> None:
        """Call the handler of submitit, which does not return, if the job was preempted. RunError when it does not requeue."""
        if self._requeue is None or not self._preempted:
            return
        try:
            self._requeue.handler(self._requeue.number, None)
        except Exception as error:
            name = signal_name(self._requeue.number)
            raise RunError(f"{name}: the run is interrupted and its job is not requeued: {error}") from error

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._requeue is not None and number == self._requeue.number:
            self._preempted = True  # also when another signal came first: SIGTERM may announce the preemption
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
    """Set the flag on signals inside the context. In a thread, where Python cannot install handlers, the flag stays unset.

    In a job of submitit `Interrupted` ends the process: a preempted job is requeued, otherwise the exit code is that of the
    signal. A run that ends in any other way has finished, and its job is not requeued.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopSignal()
        return
    requeue = requeue_of_submitit()
    stop = StopSignal(requeue)
    numbers = {*stop_signals(), *([SAVE_SIGNAL] if SAVE_SIGNAL is not None else []), *([requeue.number] if requeue else [])}
    original = {number: signal.signal(number, stop._handle) for number in numbers}
    restored = original | ({requeue.number: signal.SIG_IGN} if requeue else {})
    try:
        yield stop
    except Interrupted as error:
        if requeue is None:
            raise
        stop.requeue()
        restored = original  # submitit may still preempt the job
        raise SystemExit(error.exit_code) from None  # submitit would treat Interrupted as Ctrl-C and die of SIGINT
    finally:
        for number, handler in restored.items():
            signal.signal(number, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold back the signals to a run until the end of the context. For imports of compiled modules: an exception that a
    handler raises in their C++ aborts the process (two of 120 runs that were stopped while they imported torch)."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    requeue = requeue_of_submitit()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS | ({signal.Signals(requeue.number)} if requeue else set()))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def requeue_of_submitit() -> Requeue | None:
    """Return the requeue handler of submitit; None outside its jobs. Environment variables: submitit/core/job_environment.py."""
    name = "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    if "SUBMITIT_EXECUTOR" not in os.environ or name not in signal.Signals.__members__:
        return None
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    return Requeue(number, handler) if callable(handler) else None


def signal_name(number: int) -> str:
    """Return the name of a signal: 15 -> 'SIGTERM'; 'signal 40' if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_with_number(number: int) -> str:
    """Return name and number of a signal: 9 -> 'SIGKILL (signal 9)'."""
    name = signal_name(number)
    return name if name == f"signal {number}" else f"{name} (signal {number})"
