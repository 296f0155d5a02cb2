"""The process of the fork server: how it is started, found and killed. A process has one at most. Imports no torch."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker

from train.run.signals import HELD_SIGNALS

PRELOAD = "train.sweep.preload"
TORCHVISION_CHOICES = ("torchvision", "cifar", "fashion_mnist", "svhn", "imagenet")
"""Words in overrides that choose a part of torchvision. The fork server then imports it once for all jobs: a second each."""
_more_modules: dict[str, None] = {}
"""What the server imports besides PRELOAD."""


def begin_imports(overrides: Iterable[str]) -> None:
    """Start the server before it is needed, with what runs of these overrides import: that takes seconds.

    A failure is left to the one who needs the server.
    """
    words = " ".join(overrides)
    if "forkserver" in multiprocessing.get_all_start_methods():
        with suppress(OSError):
            ensure_server(["torchvision"] if any(name in words for name in TORCHVISION_CHOICES) else [])


def ensure_server(modules: Sequence[str] = ()) -> None:
    """Start the server unless it runs. Returns before its imports are done. OSError when it cannot be started.

    `modules`: what it is to import besides `train.sweep.preload`, and so is one that replaces it.
    """
    _more_modules.update(dict.fromkeys(modules))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_more_modules, PRELOAD])  # anew: the pool that decodes images sets its own
    environment = dict(os.environ)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    # Python 3.11 starts it with the current folder on its path, where a file could shadow a module, and without our path.
    os.environ.update(thread_variables(1), PYTHONSAFEPATH="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    try:
        resource_tracker.ensure_running()  # the first time it lets SIGINT and SIGTERM through again
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        forkserver.ensure_running()
        atexit.unregister(kill_server)
        atexit.register(kill_server)  # else it would go on importing for us, and hold our outputs open
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def thread_variables(count: int) -> dict[str, str]:
    """Return the variables that libraries read at import. OpenBLAS gets one thread: it starts its threads at import, and a fork
    keeps only one."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": "1"}


def server_pid() -> int | None:
    """Return the id of the server; None without one of this process's own."""
    return forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]


def kill_server() -> None:
    """Kill the server: every call that waits for it, or for a worker, returns at once."""
    if (pid := server_pid()) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
