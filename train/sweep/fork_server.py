"""The fork server imports everything a run needs once, then forks a worker per job: milliseconds instead of seconds.

It is the one of `multiprocessing`, with `train.sweep.preload`; a process has one at most, and one that was killed is replaced at
the next start. This module imports no torch. No process outlives its parent:

- a worker watches the process that requested it: on its death, the worker gets SIGTERM, SIGKILL a second later;
- the server ends with the last of these processes;
- a worker's end is followed by SIGKILL to its process group, which holds the processes it started.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from train.errors import SIGNALLED, RunError, UsageError

SERVER_LOST = 255
"""The exit code that `multiprocessing` gives a worker whose fork server was killed."""
ORPHAN_GRACE_S = 1.0
"""Time that a worker gets to save and exit after the process that requested it is gone."""
HELD_SIGNALS = {number for number in signal.Signals if number.name in {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}}
"""The signals that a terminal or a batch system sends to every process. They do not reach the server."""


@dataclass(eq=False)
class Worker:
    """A process that runs one call.

    value: what the call returned, None before that. exit_code: None until `ForkServer.wait` returns the worker; -n: killed by
    signal n; SERVER_LOST."""

    process: BaseProcess
    pid: int
    connection: Connection
    value: Any = None
    exit_code: int | None = None

    def receive(self) -> None:
        """Receive the value if the worker has sent it."""
        if not self.connection.closed and self.connection.poll():
            with suppress(EOFError, OSError):
                self.value = self.connection.recv()
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

    threads: threads of each worker's tensor operations, unless `start` sets them. modules: what the server is to import besides.
    workers: those whose exit `wait` has not returned yet.
    A context manager: leaving it ends every worker. So does the death of this process, whatever its cause.

        with ForkServer(threads=1) as fork_server:
            fork_server.start("package.module:function", argument)
            (worker,) = fork_server.wait()
    """

    def __init__(self, threads: int, modules: Sequence[str] = ()) -> None:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise UsageError("hydra/launcher=pool: this system cannot fork processes. Use hydra/launcher=basic or joblib.")
        self.threads = threads
        self.workers: list[Worker] = []
        self._modules = [*modules, "train.sweep.preload"]
        self._context = multiprocessing.get_context("forkserver")
        self._ensure_server()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        operations. An exception of the call is printed to the log and gives exit code 1. RunError when the server cannot start.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        threads = threads or self.threads
        variables = os.environ | _thread_variables(threads) | dict(environment or {})
        connection, its_end = self._context.Pipe()
        process = self._context.Process(target=_run, args=(its_end, str(log or os.devnull)))
        self._ensure_server()
        worker = Worker(process, _start(process), connection)
        self.workers.append(worker)
        its_end.close()
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended already
            connection.send((variables, threads, call, argument))
        return worker

    def wait(self, timeout: float | None = None) -> list[Worker]:
        """Return the workers that exited since the last call. Waits up to `timeout` seconds for one (None: no limit); returns at
        once without workers."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.workers:
            connections = [worker.connection for worker in self.workers if not worker.connection.closed]
            sentinels = [worker.process.sentinel for worker in self.workers]
            ready = wait([*connections, *sentinels], None if deadline is None else max(0.0, deadline - time.monotonic()))
            for worker in self.workers:
                worker.receive()
            exited = [worker for worker in self.workers if worker.process.sentinel in ready]
            if exited or not ready:
                return self._reap(exited)
        return []

    def close(self) -> None:
        """Kill every worker; may be called more than once. The server ends with this process."""
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        self._reap(list(self.workers))

    def _ensure_server(self) -> None:
        """Start the server unless it runs."""
        self._context.set_forkserver_preload(self._modules)  # anew: the pool that decodes images sets its own
        environment = dict(os.environ)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        # Python 3.11 starts it with the current folder on its path, where a file could shadow a module, and without our path.
        os.environ.update(_thread_variables(self.threads), PYTHONSAFEPATH="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        try:
            resource_tracker.ensure_running()  # the first time it lets SIGINT and SIGTERM through again
            signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
            forkserver.ensure_running()
        except OSError as error:  # its socket lies in TMPDIR, and the system limits the length of its path
            raise RunError(f"The fork server, which starts the jobs of a sweep, needs a short TMPDIR: {error}.") from error
        finally:
            os.environ.clear()
            os.environ.update(environment)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _reap(self, workers: list[Worker]) -> list[Worker]:
        for worker in workers:
            worker.reap()
            self.workers.remove(worker)
        return workers


def _thread_variables(count: int) -> dict[str, str]:
    """Return the variables that libraries read at import. OpenBLAS gets one thread: it starts its threads at import, and a fork
    keeps only one."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": "1"}


def _start(process: BaseProcess) -> int:
    """Start the process and return its id. Hides the main module, which `multiprocessing` would run again in each worker."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    except (EOFError, OSError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise RunError(f"The fork server, which starts the jobs of a sweep, ended unexpectedly ({cause}).") from error
    finally:
        sys.modules["__main__"] = main
    assert process.pid is not None
    return process.pid


def _run(connection: Connection, log: str) -> None:
    """In the worker: receive a call, run it and send back what it returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    os.setsid()
    _redirect(log)
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
        connection.send(getattr(importlib.import_module(module), name)(argument))
    except KeyboardInterrupt:
        sys.exit(SIGNALLED + signal.SIGINT)
    finally:
        if not parent.is_alive():
            os.killpg(0, signal.SIGKILL)


def _redirect(log: str) -> None:
    """Append stdout and stderr to the log, line by line. The server's stdin is empty already."""
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
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
