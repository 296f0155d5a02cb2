"""The fork server imports everything a run needs once, then forks a worker per job: milliseconds instead of seconds.

It only imports: it runs no tensor operation, so that a worker starts with OpenMP and CUDA uninitialised. It has one thread,
because a fork copies only the calling thread. This module is the controller's side and imports no torch; the other side is
`train.sweep.fork_server_process`.
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
"""Not `python -m`, which would put the current folder on the path: a module there could shadow one of this project."""

CLOSE_TIMEOUT_S = 5.0
"""Longest wait for the server to exit after the connection is closed; it kills its workers first."""


@dataclass(frozen=True)
class Worker:
    """A process that runs one call; `id` counts from 0 in the order of starting."""

    id: int


@dataclass(frozen=True)
class WorkerExit:
    """An exited worker: its exit code (-n: killed by signal n), and the call's return value, None if the call did not return."""

    worker: Worker
    exit_code: int
    value: Any = None


@dataclass(frozen=True)
class StartRequest:
    """The request to fork a worker. `argument` is pickled here and unpickled only in the worker."""

    id: int
    call: str
    argument: bytes
    log: str | None
    environment: Mapping[str, str]
    threads: int


@dataclass(frozen=True)
class SignalRequest:
    """The request to send signal `number` to the worker `id`."""

    id: int
    number: int


@dataclass(frozen=True)
class PreloadRequest:
    """The request to import more modules in the server."""

    modules: tuple[str, ...]


@dataclass(frozen=True)
class ExitNotice:
    """The server's message that a worker has exited; `value` is its pickled return value, None without one."""

    id: int
    exit_code: int
    value: bytes | None


@dataclass(frozen=True)
class ReadyNotice:
    """The server's message that it has imported everything."""


ServerRequest: TypeAlias = StartRequest | SignalRequest | PreloadRequest


class ForkServerLost(RunError):
    """The fork server is gone, and with it every worker: it was killed, or an import failed."""


class ForkServer:
    """A server process that forks workers. The constructor returns before its imports are done; calls may be started at once.

    threads: threads of each worker's tensor operations, unless `start` sets them.
    A context manager: leaving it ends the server and every worker. So does the death of this process, whatever its cause.

        with ForkServer(threads=1) as fork_server:
            worker = fork_server.start("package.module:function", argument)
            (worker_exit,) = fork_server.wait()
    """

    def __init__(self, threads: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("hydra/launcher=pool: this system cannot fork processes. Use hydra/launcher=basic or joblib.")
        self.threads = threads
        self._connection, self._process = _spawn(threads)
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self._imported = False

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._process.kill()  # its workers die with it; while importing, it would not notice a closed connection
        self.close()

    def preload(self, modules: Sequence[str]) -> None:
        """Import more modules, for the workers forked from now on. Missing ones are skipped: workers report them."""
        self._send(PreloadRequest(tuple(modules)))

    def start(
        self,
        call: str,
        argument: object = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> Worker:
        """Call `package.module:function` with `argument` in a new process, which leads its own session.

        argument and the return value: anything picklable. log: file to append stdout and stderr to, its folder is created if
        missing; None discards them. environment: variables to set in the worker before the call; threads: threads of its tensor
        operations. An exception of the call is printed to the log and gives exit code 1. ForkServerLost when the server is gone.
        """
        worker = Worker(self._count)
        self._count += 1
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        path = None if log is None else str(log)
        self._send(StartRequest(worker.id, call, pickle.dumps(argument), path, dict(environment or {}), threads or self.threads))
        self._workers[worker.id] = worker
        return worker

    def wait(self, timeout: float | None = None) -> list[WorkerExit]:
        """Return the workers that exited since the last call, in order.

        Waits up to `timeout` seconds for one (None: no limit); returns at once without workers. ForkServerLost when the server
        is gone."""
        exits: list[WorkerExit] = []
        while self._workers and self._has_message(0.0 if exits else timeout):
            if notice := self._receive():
                worker = self._workers.pop(notice.id)
                exits.append(WorkerExit(worker, notice.exit_code, None if notice.value is None else pickle.loads(notice.value)))
        return exits

    def ready(self, timeout: float | None = 0.0) -> bool:
        """Return whether the server has imported everything, so that a call would start at once.

        Waits up to `timeout` seconds for that if there are no workers. ForkServerLost when the server is gone."""
        if not self._imported and not self._workers and self._has_message(timeout):
            self._receive()
        return self._imported

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to the worker, SIGKILL also to the processes it started; does nothing after the worker has exited."""
        with contextlib.suppress(ForkServerLost):  # the next `wait` raises it
            self._send(SignalRequest(worker.id, number))

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers whose exit `wait` has not returned yet."""
        return tuple(self._workers.values())

    def close(self) -> None:
        """Kill every worker and end the server; may be called more than once."""
        for worker in self.workers:
            self.signal(worker, signal.SIGKILL)
        self._connection.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._workers.clear()

    def _has_message(self, timeout: float | None) -> bool:
        try:
            return self._connection.poll(timeout)
        except OSError as error:
            raise self._lost_error() from error

    def _receive(self) -> ExitNotice | None:
        """Receive one message; return None if it says that the server is ready."""
        try:
            message: ExitNotice | ReadyNotice = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost_error() from error
        if isinstance(message, ReadyNotice):
            self._imported = True
            return None
        return message

    def _send(self, request: ServerRequest) -> None:
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._lost_error() from error

    def _lost_error(self) -> ForkServerLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        cause = f"killed by {signal_with_number(-code)}" if code and code < 0 else f"exit code {code}"
        return ForkServerLost(f"The fork server, which starts the jobs of a sweep, ended unexpectedly ({cause}).")


def _spawn(threads: int) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start the server; return this end of the connection and the process. It leads its own session, out of reach of Ctrl-C."""
    own_end, server_end = Pipe()
    flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
    command = [sys.executable, *flags, "-c", SERVER_PROGRAM, str(server_end.fileno()), *sys.path]
    process = subprocess.Popen(
        command,
        env=os.environ | _thread_environment(threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[server_end.fileno()],
        start_new_session=True,
    )
    server_end.close()
    return own_end, process


def _thread_environment(count: int) -> dict[str, str]:
    """Return the variables that libraries read at import. OpenBLAS gets one thread: it starts its threads at import, and a fork
    keeps only one."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": "1"}
