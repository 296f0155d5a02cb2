"""What the fork server imports, once for all jobs of a sweep; importing it also prepares that process for forking.

It only imports, and replaces two functions by which the server of `multiprocessing` takes a request: a worker starts with OpenMP
and CUDA uninitialised, and the server has one thread, as a fork copies no other.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import pkgutil
import socket
import sys
from multiprocessing import reduction

from train.collector import uncollected
from train.store.code import code_id

MODULES = (
    "train.cli",
    "train.naming",
    "train.run",
    "train.sweep.job",
    "train.sweep.worker",
    "train.data",
    "train.parts",
    "train.observe",
    "train.explain",
    "train.figures",
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
    "pydantic._internal._serializers",
)
"""The modules that every run imports, directly or not. For a package of this project, all its modules."""


def import_package(name: str) -> None:
    """Import a module; for a package of this project, also all its submodules."""
    module = importlib.import_module(name)
    if name.startswith("train.") and hasattr(module, "__path__"):
        for _, submodule, _ in pkgutil.iter_modules(module.__path__, f"{name}."):
            import_package(submodule)


_fork = os.fork


def fork_or_refuse() -> int:
    """Fork. Where the system allows no more processes, refuse that request alone.

    The server of `multiprocessing` ends on every error but ECONNABORTED, and its workers would be lost. It keeps the ends of the
    pipes of the request in these variables; as they close, its client learns that there is no process.
    """
    try:
        return _fork()
    except OSError as error:
        request = sys._getframe(1).f_locals
        if not {"child_r", "child_w", "fds"} <= set(request):
            raise
        for end in (request["child_r"], request["child_w"], *request["fds"]):
            os.close(end)
        raise OSError(errno.ECONNABORTED, error.strerror) from error


def receive_or_refuse(client: socket.socket, size: int) -> list[int]:
    """Receive the files of a request, at most `size`. Where some do not arrive, refuse that request alone, as `fork_or_refuse`.

    This process may open no more, or its client may not, which then closes the connection.
    """
    message, files, _, _ = socket.recv_fds(client, 1, size)
    if reduction.ACKNOWLEDGE and message:
        client.send(b"A")
    if message and len(files) == message[0]:
        return files
    for file in files:
        os.close(file)
    raise OSError(errno.ECONNABORTED, "the files of the request did not arrive")


os.fork = fork_or_refuse
reduction.recvfds = receive_or_refuse
with uncollected():  # the collector would search all the new objects again and again, in vain
    for _name in MODULES:
        import_package(_name)
    code_id()  # hash the sources that are loaded now, once for all workers
    gc.freeze()  # else the first collection in each worker would copy every page that holds an object
