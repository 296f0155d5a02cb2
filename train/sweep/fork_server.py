"""The fork server imports everything a run needs once, then forks a worker per job: milliseconds instead of seconds.

It is the one of `multiprocessing`, with `train.sweep.preload`; a process has one at most, and one that was killed is replaced at
the next start. This module imports no torch. No process outlives its parent:

- a worker watches the process that requested it: on its death, the worker gets SIGTERM, SIGKILL a second later;
- the server ends with the last of these processes;
- a worker's end is followed by SIGKILL to its process group, which holds the processes it started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from train.errors import FEW_OF_EITHER, SHORTAGES, RunError, UsageError, remedy
from train.sweep import worker as worker_process
from train.sweep.server_process import ensure_server, kill_server, server_pid, thread_variables
from train.sweep.watch import StopWatch, has_ended, is_stopped
from train.sweep.worker import Told, open_log

SERVER_LOST = 255
"""The exit code that `multiprocessing` gives a worker whose fork server was killed."""
SERVER = "The fork server, which starts the jobs of a sweep,"
KILL_S = 5.0
"""Time that a killed worker gets to end. Then nobody waits for it any more."""


@dataclass(eq=False)
class Worker:
    """A process that runs one call.

    what: what it does, for messages. value: what the call returned, None before that. told: how far a data set is that it loads.
    exit_code: None until `ForkServer.wait` returns the worker; -n: killed by signal n; SERVER_LOST."""

    process: BaseProcess
    pid: int
    connection: Connection
    what: str = ""
    value: Any = None
    told: Told | None = None
    exit_code: int | None = None

    def receive(self) -> None:
        """Receive the value if the worker has sent it, and what it told before."""
        while not self.connection.closed and self.connection.poll():
            try:
                received = self.connection.recv()
            except (EOFError, OSError):
                received = None
            if isinstance(received, Told):
                self.told = received
            else:
                self.value = received
                self.connection.close()

    def signal(self, number: int) -> None:
        """Send a signal to the worker, SIGKILL also to the processes it started; does nothing after the worker has exited."""
        if self.exit_code is None and self.process.exitcode is None:
            if number == signal.SIGKILL:
                self.kill_group()
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill what is left of the worker and the processes it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Wait for the exit, and release everything that belongs to the worker."""
        self.process.join()
        self.receive()
        self.exit_code = self.process.exitcode
        self.kill_group()  # the worker itself, too, if only the server is gone
        self.connection.close()
        self.process.close()


class ForkServer:
    """A server process that forks workers. The constructor returns before its imports are done; the first `start` waits for them.

    threads: threads of each worker's tensor operations, unless `start` sets them. workers: those whose exit `wait` has not yet
    returned. watch: says of the server and of workers when they are stopped. failure: what is raised when no process can be
    started; UsageError as long as nothing has been done.
    A context manager: leaving it waits for what was left to `at_end`, unless by an exception, and ends every worker. So does the
    death of this process, whatever its cause.

        with ForkServer(threads=1) as fork_server:
            fork_server.start("package.module:function", argument)
            (worker,) = fork_server.wait()
    """

    def __init__(self, threads: int) -> None:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise UsageError("hydra/launcher=pool: this system cannot fork processes. Use hydra/launcher=basic or joblib.")
        self.threads = threads
        self.workers: list[Worker] = []
        self._context = multiprocessing.get_context("forkserver")
        self._is_starting = False
        self.failure: type[UsageError | RunError] = UsageError
        self._at_end: list[Callable[[], object]] = []
        self._ensure_server()
        self.watch = StopWatch(self._processes)
        with suppress(RuntimeError):  # the system allows no more threads
            self.watch.start()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._at_end and kind is None:
                self._at_end.pop(0)()
        finally:
            self.close()

    def at_end(self, wait: Callable[[], object]) -> None:
        """Let something that was begun go on until this object is left; `wait` is then called, and waits for it."""
        self._at_end.append(wait)

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
        operations. An exception of the call is printed to the log and gives exit code 1. OSError when the log cannot be written,
        `failure` when no process can be started.
        """
        if log is not None:
            self._check_log(log)
        threads = threads or self.threads
        variables = os.environ | thread_variables(threads) | dict(environment or {})
        self._ensure_server()
        try:
            connection, its_end = self._context.Pipe()
        except OSError as error:
            raise self._cannot_start(error) from error
        self._is_starting = True
        try:
            process = self._context.Process(target=worker_process.run, args=(its_end, str(log or os.devnull)))
            pid = self._start(process)
        except BaseException:
            connection.close()
            raise
        finally:
            self._is_starting = False
            its_end.close()
        worker = Worker(process, pid, connection, str(log.parent) if log else call)
        self.workers.append(worker)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended already
            connection.send((variables, threads, call, argument))
        return worker

    def wait(self, timeout: float | None = None, among: Collection[Worker] | None = None) -> list[Worker]:
        """Return the workers that exited since the last call, of all or of those `among`. Waits up to `timeout` seconds for one
        (None: no limit); returns at once when none is left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while waited := [worker for worker in self.workers if among is None or worker in among]:
            connections = [worker.connection for worker in waited if not worker.connection.closed]
            sentinels = [worker.process.sentinel for worker in waited]
            ready = wait([*connections, *sentinels], None if deadline is None else max(0.0, deadline - time.monotonic()))
            for worker in waited:
                worker.receive()
            exited = [worker for worker in waited if worker.process.sentinel in ready]
            if exited or not ready:
                return self._reap(exited)
        return []

    def close(self) -> None:
        """Kill every worker; may be called more than once. The server ends with this process, or at once if a worker does not."""
        self.watch.end()
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        deadline = time.monotonic() + KILL_S
        while self.workers and time.monotonic() < deadline and not self._is_stopped():
            self.wait(0.1)
        if self.workers:
            self.kill()
        self._reap(list(self.workers))

    def end_waiting(self) -> None:
        """Kill the server, and so all workers, if it keeps this process waiting: it is stopped, or a start does not return."""
        if self._is_starting or self._is_stopped():
            self.kill()

    def kill(self) -> None:
        """Kill the server, and so all workers: every call that waits for one returns at once."""
        kill_server()

    def _is_stopped(self) -> bool:
        pid = server_pid()
        return pid is not None and is_stopped(pid)

    def _processes(self) -> dict[int, str]:
        """Return id -> what it does, for the server and all workers."""
        pid = server_pid()
        server = {} if pid is None else {pid: "the fork server, which starts the jobs"}
        return server | {worker.pid: worker.what for worker in list(self.workers)}

    def _ensure_server(self) -> None:
        """Start the server unless it runs."""
        try:
            ensure_server()
        except OSError as error:
            raise self._cannot_start(error) from error

    def _start(self, process: BaseProcess) -> int:
        """Start the process and return its id. Hides the main module, which `multiprocessing` would run again in each worker."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            process.start()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:  # the last two: before all was sent
            pid = server_pid()
            cause = "It has ended." if pid is None or has_ended(pid, within_s=0.5) else FEW_OF_EITHER
            raise self.failure(f"{SERVER} started no process. {cause}") from error
        except OSError as error:
            raise self._cannot_start(error) from error
        finally:
            sys.modules["__main__"] = main
        assert process.pid is not None
        return process.pid

    def _check_log(self, log: Path) -> None:
        """Make the folder of a log, and the log. OSError when that fails; `failure` when the cause is no fault of the folder."""
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            open_log(str(log)).close()
        except OSError as error:
            if error.errno in SHORTAGES:
                raise self._cannot_start(error) from error
            raise

    def _cannot_start(self, error: OSError) -> UsageError | RunError:
        # Its socket lies in TMPDIR, and the system limits the length of its path.
        cause = (
            remedy(error) if error.errno in SHORTAGES else f" It needs a short TMPDIR with free space ({tempfile.gettempdir()})."
        )
        return self.failure(f"{SERVER} cannot start a process ({error.strerror or error}).{cause}")

    def _reap(self, workers: list[Worker]) -> list[Worker]:
        for worker in workers:
            worker.reap()
            self.workers.remove(worker)
        return workers
