"""A kind of work whose cost may grow with its size, and its measurement in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BECOME_SUBREAPER = 36
"""Linux: orphaned descendants become children of this process, so that their time is known (`man 2 PR_SET_CHILD_SUBREAPER`)."""
RESET_PEAK = "5"
"""Linux: what resets the peak of a process's memory (`man 5 proc_pid_clear_refs`)."""


@dataclass(frozen=True)
class Work:
    """A kind of work. `size` of `unit` is measured, and twice as many.

    `prepare`: makes the input of a size in an empty folder and returns the call that does the work. Only the call is measured.
    It must be a function of a module: another process calls it. `processes`: the work is that of processes which the call starts
    and which end with it; else only that of the process itself is measured. `keeps_nothing`: its memory must not grow.
    """

    name: str
    unit: str
    size: int
    prepare: Callable[[int, Path], Callable[[], object]]
    processes: bool = False
    keeps_nothing: bool = False


@dataclass(frozen=True)
class Cost:
    """What a work took: CPU seconds, and the peak memory, of the largest process if it has several, in MB."""

    cpu_s: float
    peak_mb: float


def cost_of(work: Work, size: int) -> Cost:
    """Return what the work takes at a size, measured in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, work, size).result()


def measured(work: Work, size: int) -> Cost:
    """Return what the work takes at a size, in this process."""
    if work.processes and sys.platform == "linux":
        ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="train-scale-") as folder:
        call = work.prepare(size, Path(folder))
        gc.collect()
        gc.freeze()  # else a full collection, which visits all that is imported, falls into some measurements and not into others
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
        before = cpu_s()
        call()
        if work.processes:
            _wait_for_children()
        return Cost(cpu_s() - before, peak_mb(work.processes))


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mb(of_children: bool) -> float:
    """Return the peak memory of this process in MB, or that of the largest process that it has waited for."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    with suppress(OSError, StopIteration, IndexError):  # this one knows of the reset
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        own = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        peak = peak if of_children else own
    return peak * kilobyte / 1e6


def _wait_for_children() -> None:
    with suppress(ChildProcessError):
        while True:
            os.wait()
