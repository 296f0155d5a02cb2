"""Notice processes that are stopped (SIGSTOP, Ctrl-Z), not dead: who waits for one would wait without end and without a word.

Only the state that the system gives a process counts, not its progress: a slow machine is not a stopped one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import psutil

from train.streams import say_error

LOOK_EVERY_S = 1.0


def is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def has_ended(pid: int, within_s: float) -> bool:
    """Return whether the process ends within some seconds, whether or not its parent has collected it."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


class StopWatch(threading.Thread):
    """A thread that says of each process that it is stopped, once until it goes on. `processes`: returns id -> what it does.

    It speaks when it has seen that twice: this process may have been stopped with it, and goes on a moment earlier.
    """

    def __init__(self, processes: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(daemon=True, name="stop-watch")
        self.say: Callable[[str], object] = partial(say_error, "train")
        self._processes = processes
        self._seen: dict[int, int] = {}
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look at every process once."""
        stopped = {pid: what for pid, what in self._processes().items() if is_stopped(pid)}
        self._seen = {pid: self._seen.get(pid, 0) + 1 for pid in stopped}
        for pid, what in stopped.items():
            if self._seen[pid] == 2:
                self.say(f"process {pid} ({what}) is stopped. `kill -CONT {pid}` lets it go on; Ctrl-C twice ends the sweep.")

    def end(self) -> None:
        self._end.set()
