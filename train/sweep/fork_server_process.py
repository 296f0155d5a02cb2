"""The process behind `train.sweep.fork_server.Nursery`: imports, then forks on request. One thread, no tensor, no CUDA.

No process outlives the one that asked for it:
- the controller's death closes the connection; the children are asked to end, killed a second later, and this process ends;
- this process's death ends each child: the kernel sends SIGKILL (Linux), and a pipe that closes tells it everywhere;
- a child's death is followed by SIGKILL to its process group, which holds whatever it started.
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
    "torch._inductor",  # by `torch.use_deterministic_algorithms`, and with it dynamo and sympy: two seconds
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "antlr4.LL1Analyzer",
    "numpy.polynomial",
    "omegaconf._impl",
    "torch.utils.serialization",
)
"""What every run imports, with all that these import. Of a package of ours, every module."""

PR_SET_PDEATHSIG = 1  # of prctl(2)
ORPHAN_GRACE_S = 1.0
"""How long children may take to save and end once the controller is gone."""


def main(descriptor: int) -> None:
    """descriptor: of this end of the connection."""
    parent = os.getppid()
    die_with_parent(signal.SIGKILL)  # while importing, nobody looks at the connection
    for module in PRELOADED:
        import_package(module)
    code_id()  # reads the sources that are loaded now, once for all children
    die_with_parent(0)
    if os.getppid() != parent:
        sys.exit(1)
    gc.collect()
    gc.freeze()  # else the first collection in each child would copy every page that holds an object
    connection = Connection(descriptor)
    with contextlib.suppress(OSError):
        connection.send(ReadyNotice())
    Server(connection).serve()


def import_package(name: str) -> None:
    """Import a module; of a package of ours, all that lies below it."""
    module = importlib.import_module(name)
    if name.startswith("train.") and hasattr(module, "__path__"):
        for _, below, _ in pkgutil.iter_modules(module.__path__, f"{name}."):
            import_package(below)


class Server:
    """`children`: pid -> its order and the file that takes the value it returns."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.workers: dict[int, tuple[StartRequest, IO[bytes]]] = {}
        self.life = os.pipe()  # nobody ever writes: a child that reads it learns of this process's end
        self.wake = os.pipe()
        for end in self.wake:
            os.set_blocking(end, False)

    def serve(self) -> None:
        """Until the controller closes the connection or dies."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)
        while True:
            ready = wait([self.connection, self.wake[0]])
            if self.wake[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake[0], 4096)
                for note in self.reap():
                    with contextlib.suppress(OSError):  # the controller is gone: the next turn notices
                        self.connection.send(note)
            if self.connection in ready:
                try:
                    self.handle(self.connection.recv())
                except (EOFError, OSError):
                    return self.end()

    def handle(self, order: ServerRequest) -> None:
        if isinstance(order, StartRequest):
            self.fork(order)
            return
        if isinstance(order, PreloadRequest):
            for module in order.modules:
                with contextlib.suppress(ImportError):
                    import_package(module)
            return
        for pid, (start, _) in self.workers.items():
            if start.id == order.id:
                send_signal(pid, order.number)

    def fork(self, order: StartRequest) -> None:
        result = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the child is reaped)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_worker(order, result, lambda: self.detach(parent))
        self.workers[pid] = (order, result)

    def detach(self, parent: int) -> None:
        """In the child: give back what belongs to the server, and tie this life to the server's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        self.connection.close()
        for descriptor in (self.life[1], *self.wake):
            os.close(descriptor)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        threading.Thread(target=exit_when_closed, args=(self.life[0],), daemon=True).start()

    def reap(self) -> list[ExitNotice]:
        """Those that ended."""
        notes = []
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            order, result = self.workers.pop(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            with result:
                result.seek(0)
                notes.append(ExitNotice(order.id, os.waitstatus_to_exitcode(status), result.read() or None))
        return notes

    def end(self) -> None:
        """The controller has closed the connection, or died."""
        for pid in self.workers:
            send_signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + ORPHAN_GRACE_S
        while self.workers and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        for pid in self.workers:
            send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """A signal to a child that has not been reaped; SIGKILL to all that it started, too."""
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    os.kill(pid, number)


def run_worker(order: StartRequest, result: IO[bytes], leave: Callable[[], None]) -> NoReturn:
    """The whole life of a child, from the fork to its exit code."""
    code = 1
    try:
        leave()
        clear_exit_functions()
        redirect(order.log)
        os.environ.update({"OMP_NUM_THREADS": str(order.threads)} | dict(order.environment))
        torch.set_num_threads(order.threads)  # OpenMP has read the variable already, and not begun
        value = import_function(order.call)(pickle.loads(order.argument))
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
            atexit._run_exitfuncs()  # as the interpreter would
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def clear_exit_functions() -> None:
    """What the imports wanted done at the server's exit is not for a child to do (remove a folder, say; and to take apart torch's
    operator libraries takes longer than the fork). Left are those that act on what this process itself will create."""
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # pyright: ignore[reportAttributeAccessIssue]
        finalizer.atexit = False
    for function in (weakref.finalize._exitfunc, logging.shutdown, multiprocessing.util._exit_function):  # pyright: ignore[reportAttributeAccessIssue]
        atexit.register(function)


def redirect(log: str | None) -> None:
    """Standard streams: nothing to read, and everything that is written goes to the log, line by line."""
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
    """Have the kernel send this process a signal when its parent dies; 0 for none. Linux only, elsewhere nothing happens."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def exit_when_closed(descriptor: int) -> None:
    """In a thread of a child: end it, with all it started, as the pipe's other end closes."""
    os.read(descriptor, 1)
    os.killpg(0, signal.SIGKILL)
