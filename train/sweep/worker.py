"""What runs in a worker of the fork server: receive a call, run it, and end with the process that requested it."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from io import FileIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from train.errors import SIGNALLED
from train.run.loading import loading_relayed
from train.run.signals import HELD_SIGNALS
from train.store.inside import Folder

ORPHAN_GRACE_S = 1.0
"""Time that a worker gets to save and exit after the process that requested it is gone."""


class Told(NamedTuple):
    """How far the data set is that a worker loads: what it does, with how many files, of how many; 0 of an unknown number."""

    what: str
    done: int
    total: int


def open_log(log: str) -> FileIO:
    """Open the log of a worker to append to it. OSError when it cannot be written."""
    path = Path(log)
    return FileIO(log, "ab") if log == os.devnull else Folder(path.parent).append(path.name)


def run(connection: Connection, log: str) -> None:
    """In the worker: receive a call, run it and send back what it returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    os.setsid()
    redirect(log)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    multiprocessing.set_start_method(None, force=True)  # else `forkserver` would be the default of the call's own processes
    try:
        variables, threads, call, argument = connection.recv()
        os.environ.clear()
        os.environ.update(variables)
        import torch

        torch.set_num_threads(threads)  # OpenMP has already read the variable, but started no threads
        module, _, name = call.partition(":")
        function = getattr(importlib.import_module(module), name)
        with loading_relayed(lambda told: connection.send(Told(*told))):
            value = function(argument)
        connection.send(value)
    except KeyboardInterrupt:
        sys.exit(SIGNALLED + signal.SIGINT)
    finally:
        if not parent.is_alive():
            os.killpg(0, signal.SIGKILL)


def redirect(log: str) -> None:
    """Append stdout and stderr to the log, line by line. The server's stdin is empty already."""
    with open_log(log) as target:
        for descriptor in (1, 2):
            os.dup2(target.fileno(), descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    faulthandler.enable()


def _end_with_parent(parent: BaseProcess) -> None:
    """In a thread of a worker: when the process that requested it has ended, let the call save and exit, then kill the group."""
    parent.join()
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
    os.killpg(0, signal.SIGKILL)
