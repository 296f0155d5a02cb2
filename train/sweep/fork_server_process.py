"""The server process of `train.sweep.fork_server.ForkServer`: imports, then forks on request. One thread, no tensors, no CUDA.

No process outlives its parent:
- the controller's death closes the connection: the server sends SIGTERM to its workers, SIGKILL a second later, and exits;
- the server's death ends each worker: the kernel sends SIGKILL (Linux), and on every system a pipe closes;
- a worker's death is followed by SIGKILL to its process group, which holds the processes it started.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import multiprocessing.util
import os
import pickle
import pkgutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import IO, Any, NoReturn

import torch

from train.errors import SIGNALLED
from train.store.code import code_id
from train.sweep.fork_server import ExitNotice, PreloadRequest, ReadyNotice, ServerRequest, StartRequest

PRELOADED = (
    "train.cli",
    "train.run",
    "train.sweep.job",
    "train.data",
    "train.parts",
    "train.observe",
    "train.sinks",
    "train.store",
    "psutil",
    "torch._inductor",  # `torch.use_deterministic_algorithms` imports it, with dynamo and sympy: two seconds
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "antlr4.LL1Analyzer",
    "numpy.polynomial",
    "omegaconf._impl",
    "torch.utils.serialization",
)
"""The modules that every run imports, directly or not. For a package of this project, all its modules."""

PR_SET_PDEATHSIG = 1  # see prctl(2)
ORPHAN_GRACE_S = 1.0
"""Time that workers get to save and exit after the controller is gone."""


def main(descriptor: int) -> None:
    """Import, then serve requests. `descriptor`: the file descriptor of this end of the connection."""
    parent = os.getppid()
    die_with_parent(signal.SIGKILL)  # while importing, the server does not read the connection
    for module in PRELOADED:
        import_package(module)
    code_id()  # hash the sources that are loaded now, once for all workers
    die_with_parent(0)
    if os.getppid() != parent:
        sys.exit(1)
    gc.collect()
    gc.freeze()  # else the first collection in each worker would copy every page that holds an object
    connection = Connection(descriptor)
    with contextlib.suppress(OSError):
        connection.send(ReadyNotice())
    Server(connection).serve()


def import_package(name: str) -> None:
    """Import a module; for a package of this project, also all its submodules."""
    module = importlib.import_module(name)
    if name.startswith("train.") and hasattr(module, "__path__"):
        for _, submodule, _ in pkgutil.iter_modules(module.__path__, f"{name}."):
            import_package(submodule)


class Server:
    """The loop that forks, signals and reaps workers. `workers`: pid -> its request and the file for its return value."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.workers: dict[int, tuple[StartRequest, IO[bytes]]] = {}
        self.server_alive = os.pipe()  # nothing is ever written: a worker's read returns when the server has ended
        self.wake = os.pipe()
        for descriptor in self.wake:
            os.set_blocking(descriptor, False)

    def serve(self) -> None:
        """Handle requests and exits until the controller closes the connection or dies."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)
        while True:
            ready = wait([self.connection, self.wake[0]])
            if self.wake[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake[0], 4096)
                for notice in self.reap():
                    with contextlib.suppress(OSError):  # the controller is gone: the next iteration ends the loop
                        self.connection.send(notice)
            if self.connection in ready:
                try:
                    self.handle(self.connection.recv())
                except (EOFError, OSError):
                    return self.shut_down()

    def handle(self, request: ServerRequest) -> None:
        if isinstance(request, StartRequest):
            self.fork(request)
            return
        if isinstance(request, PreloadRequest):
            for module in request.modules:
                with contextlib.suppress(ImportError):
                    import_package(module)
            return
        for pid, (start, _) in self.workers.items():
            if start.id == request.id:
                send_signal(pid, request.number)

    def fork(self, request: StartRequest) -> None:
        result = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker is reaped)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_worker(request, result, lambda: self.detach(parent))
        self.workers[pid] = (request, result)

    def detach(self, parent: int) -> None:
        """In the worker: restore signal handlers, close the server's descriptors, and die with the server."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        self.connection.close()
        for descriptor in (self.server_alive[1], *self.wake):
            os.close(descriptor)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        threading.Thread(target=exit_when_closed, args=(self.server_alive[0],), daemon=True).start()

    def reap(self) -> list[ExitNotice]:
        """Return a notice for each worker that has exited."""
        notices = []
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            request, result = self.workers.pop(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            with result:
                result.seek(0)
                notices.append(ExitNotice(request.id, os.waitstatus_to_exitcode(status), result.read() or None))
        return notices

    def shut_down(self) -> None:
        """Terminate all workers, as the controller has closed the connection or died."""
        for pid in self.workers:
            send_signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + ORPHAN_GRACE_S
        while self.workers and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        for pid in self.workers:
            send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a worker that has not been reaped, SIGKILL also to the processes it started."""
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    os.kill(pid, number)


def run_worker(request: StartRequest, result: IO[bytes], detach: Callable[[], None]) -> NoReturn:
    """Run the requested call in a freshly forked worker, and exit with its exit code."""
    code = 1
    try:
        detach()
        clear_exit_functions()
        redirect(request.log)
        os.environ.update({"OMP_NUM_THREADS": str(request.threads)} | dict(request.environment))
        torch.set_num_threads(request.threads)  # OpenMP has already read the variable, but started no threads
        value = import_function(request.call)(pickle.loads(request.argument))
        result.write(pickle.dumps(value))
        result.flush()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = SIGNALLED + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()  # as the interpreter does at exit
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def clear_exit_functions() -> None:
    """Drop the exit functions that the server's imports registered; keep those for what the worker itself will create.

    The server's are not for a worker to run: they may remove a folder, and tearing down torch's operator libraries takes longer
    than the fork."""
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # pyright: ignore[reportAttributeAccessIssue]
        finalizer.atexit = False
    for function in (weakref.finalize._exitfunc, logging.shutdown, multiprocessing.util._exit_function):  # pyright: ignore[reportAttributeAccessIssue]
        atexit.register(function)


def redirect(log: str | None) -> None:
    """Append stdout and stderr to the log, line by line; None discards them. The server's stdin is empty already."""
    target = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    faulthandler.enable()


def import_function(call: str) -> Callable[[Any], Any]:
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies; 0 for none. Linux only; does nothing elsewhere."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def exit_when_closed(descriptor: int) -> None:
    """In a thread of a worker: kill it and the processes it started when the pipe's other end closes."""
    os.read(descriptor, 1)
    os.killpg(0, signal.SIGKILL)
