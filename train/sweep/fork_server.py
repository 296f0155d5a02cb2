"""A process that has imported all a run needs, and forks a child per job in milliseconds instead of the import's seconds.

Importing is all that it ever does: it runs no tensor operation, so that OpenMP and CUDA are untouched when a child begins, and it
has one thread, so that a fork copies a whole process. This module is the controller's side and starts without torch; the other
side is `train.sweep.fork_server_process`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from train.errors import RunError, UsageError
from train.run.signals import signal_with_number

SERVER_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from train.sweep.fork_server_process import main; main(int(sys.argv[1]))"
)
"""Not `python -m`, which would put the current folder on the path: a module there could take the place of one of ours."""

CLOSING_S = 5.0
"""Longest wait for the process to end by itself once it has been told to; it kills its children first."""


@dataclass(frozen=True)
class Worker:
    """One call in a process of its own; `id` counts from 0 in the order of starting."""

    id: int


@dataclass(frozen=True)
class WorkerExit:
    """`exit_code`: of the process, or -n when signal n killed it; `value`: what the call returned, None if it did not return."""

    worker: Worker
    exit_code: int
    value: Any = None


@dataclass(frozen=True)
class StartRequest:
    """An order to the process. `argument` is pickled here and unpickled only in the child."""

    id: int
    call: str
    argument: bytes
    log: str | None
    environment: Mapping[str, str]
    threads: int


@dataclass(frozen=True)
class SignalRequest:
    """An order to the process."""

    id: int
    number: int


@dataclass(frozen=True)
class PreloadRequest:
    """An order to the process."""

    modules: tuple[str, ...]


@dataclass(frozen=True)
class ExitNotice:
    """What the process says of a child that ended; `value` is pickled, None when there is none."""

    id: int
    exit_code: int
    value: bytes | None


@dataclass(frozen=True)
class ReadyNotice:
    """What the process says once it has imported everything."""


ServerRequest: TypeAlias = StartRequest | SignalRequest | PreloadRequest


class ForkServerLost(RunError):
    """The process is gone, and with it every child: it was killed, or could not import what it should."""


class ForkServer:
    """Starts the process at once and returns without waiting for its imports; calls may be started right away.

    threads: of each child's tensor operations, unless `start` says otherwise.
    A context manager: leaving it ends the process and every child, as does the death of this process in whatever way.

        with Nursery(threads=1) as fork_server:
            child = fork_server.start("package.module:function", argument)
            (ended,) = fork_server.wait()
    """

    def __init__(self, threads: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("hydra/launcher=pool: this system cannot fork processes. Use hydra/launcher=basic or joblib.")
        self.threads = threads
        self._connection, self._process = _spawn(threads)
        self._living: dict[int, Worker] = {}
        self._count = 0
        self._imported = False

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._process.kill()  # its children die with it; while it imports, it would not hear that the connection is closed
        self.close()

    def preload(self, modules: Sequence[str]) -> None:
        """Import more than what every run needs, for the children started from now on. What is not there is left to them."""
        self._send(PreloadRequest(tuple(modules)))

    def start(
        self,
        call: str,
        argument: object = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> Worker:
        """Call `package.module:function` with `argument` in a new process, which is the leader of its own session.

        argument and the returned value: anything picklable. log: file that receives stdout and stderr, appended to, its folder
        made where it is missing; None discards them. environment: variables to set in the child before the call; threads: of its
        tensor operations. An exception of the call is printed to the log and gives exit code 1. NurseryLost when the process is
        gone.
        """
        child = Worker(self._count)
        self._count += 1
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        path = None if log is None else str(log)
        self._send(StartRequest(child.id, call, pickle.dumps(argument), path, dict(environment or {}), threads or self.threads))
        self._living[child.id] = child
        return child

    def wait(self, timeout: float | None = None) -> list[WorkerExit]:
        """Those that ended since the last call, in order; waits up to `timeout` seconds for one (None: as long as it takes), and
        not at all while none is alive. NurseryLost when the process is gone."""
        found: list[WorkerExit] = []
        while self._living and self._has_news(0.0 if found else timeout):
            if note := self._receive():
                child = self._living.pop(note.id)
                found.append(WorkerExit(child, note.exit_code, None if note.value is None else pickle.loads(note.value)))
        return found

    def ready(self, timeout: float | None = 0.0) -> bool:
        """Whether it has imported everything, so that a call would start at once; waits up to `timeout` seconds for that, while
        no child is alive. NurseryLost when the process is gone."""
        if not self._imported and not self._living and self._has_news(timeout):
            self._receive()
        return self._imported

    def signal(self, child: Worker, number: int) -> None:
        """Send a signal to the child, SIGKILL also to whatever it started; nothing happens when it has ended."""
        with contextlib.suppress(ForkServerLost):  # the next `wait` says so
            self._send(SignalRequest(child.id, number))

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those whose end `wait` has not told yet."""
        return tuple(self._living.values())

    def close(self) -> None:
        """End every child and the process; may be called more than once."""
        for child in self.workers:
            self.signal(child, signal.SIGKILL)
        self._connection.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._living.clear()

    def _has_news(self, timeout: float | None) -> bool:
        try:
            return self._connection.poll(timeout)
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> ExitNotice | None:
        """None for the news that it is ready."""
        try:
            news: ExitNotice | ReadyNotice = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(news, ReadyNotice):
            self._imported = True
            return None
        return news

    def _send(self, order: ServerRequest) -> None:
        try:
            self._connection.send(order)
        except OSError as error:
            raise self._lost() from error

    def _lost(self) -> ForkServerLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        how = f"killed by {signal_with_number(-code)}" if code and code < 0 else f"exit code {code}"
        return ForkServerLost(f"The process that starts the jobs of a sweep ended unexpectedly ({how}).")


def _spawn(threads: int) -> tuple[Connection, subprocess.Popen[bytes]]:
    """The process and this end of the connection. It is the leader of its own session: a terminal's Ctrl-C does not reach it."""
    ours, theirs = Pipe()
    flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
    command = [sys.executable, *flags, "-c", SERVER_PROGRAM, str(theirs.fileno()), *sys.path]
    process = subprocess.Popen(
        command,
        env=os.environ | _threads(threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    return ours, process


def _threads(count: int) -> dict[str, str]:
    """What libraries read as they load. NumPy's OpenBLAS would start its threads during the import, and a fork keeps only one."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": "1"}
