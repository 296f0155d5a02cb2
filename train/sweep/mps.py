"""NVIDIA's Multi-Process Service (MPS): processes that share a GPU compute on it at the same time, and not in turn.

A daemon takes its clients' work to the GPU. It needs no rights. That of a sweep lives in a folder of its own, so that no other
program meets it, and ends with the sweep, whatever ends the sweep. Imports no torch.
https://docs.nvidia.com/deploy/mps/index.html
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from train.errors import UsageError
from train.streams import say
from train.sweep.fork_server import ForkServer, Worker

TOOL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
ANSWER_S = 20.0
"""Seconds that the tool gets to answer; it does so at once."""
END_S = 60.0
"""Seconds that the daemon gets to end. It waits for its last client."""

WATCHER = """
PATH=$PATH:/bin:/usr/bin
read -r _
echo quit | "$0" >/dev/null 2>&1
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""
"""A shell's program that ends the daemon as soon as its input ends, as it does when the process that started it is gone.
$0: the tool; $1: the folder."""


def find_tool() -> str | None:
    """Return the path of the tool that starts and ends the daemon, on the PATH or where nvidia-smi really lies; None without."""
    if (found := shutil.which(TOOL)) is not None:
        return found
    driver = shutil.which("nvidia-smi")
    return None if driver is None else shutil.which(TOOL, path=str(Path(driver).resolve().parent))


def required_tool() -> str:
    """Return the path of the tool. UsageError when it is not there."""
    if (tool := find_tool()) is None:
        remedy = "Add its folder to PATH, or leave the key out: runs then share a GPU in turn."
        missing = f"{TOOL}, a part of NVIDIA's driver, is neither on PATH nor beside nvidia-smi"
        raise UsageError(f"hydra.launcher.mps=true: {missing}. {remedy}")
    return tool


def is_there(tool: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether jobs would meet a daemon that is not ours: that which the user's variable names, or that of the machine."""
    return PIPES in environment or _run(tool, environment, "get_server_list\n") == 0


class Service:
    """MPS for the jobs of a sweep. Making one starts a daemon, and a worker that tries whether CUDA works under it.

    A daemon that is there already is left alone, and the jobs are its clients without our doing. `variables`: those by which a
    job sees its GPU. `ending`: what ends the daemon; as a context manager, it does so when it is left.
    """

    def __init__(self, variables: Mapping[str, str], fork_server: ForkServer) -> None:
        self._variables, self._fork_server = variables, fork_server
        self._client: Mapping[str, str] | None = None
        tool = find_tool()
        if tool is not None and is_there(tool):
            tool = None
        self._is_ours = tool is not None
        with ExitStack() as stack:
            if tool is not None:
                self._client = stack.enter_context(daemon(tool, variables, fork_server.at_end))
            if self._client is not None:
                self._trial = self._start_trial(self._client)
            self.ending = stack.pop_all()

    def client(self, is_wanted: bool) -> Mapping[str, str]:
        """Return the variables that make a job a client, none without MPS. UsageError if it is wanted and does not work."""
        problem = self._problem() if self._is_ours else ""
        if problem and is_wanted:
            raise UsageError(f"hydra.launcher.mps=true: {problem}. Leave the key out: runs then share a GPU in turn.")
        if problem:
            say(f"MPS is not used: {problem}")
        return {} if problem or self._client is None else self._client

    def _problem(self) -> str:
        """Return why jobs are no clients of the daemon; empty if all is well.

        A run on a machine whose CUDA fails would be made on the CPU, with MPS and without."""
        if self._client is None:
            return "its daemon does not start"
        works = self._works(self._trial) or self._works(self._start_trial(self._client))  # another process may have had the GPU
        return "CUDA does not work under it here" if not works and self._works(self._start_trial({})) else ""

    def _start_trial(self, client: Mapping[str, str]) -> Worker:
        return self._fork_server.start(f"{__name__}:uses_gpu", environment={**self._variables, **client})

    def _works(self, trial: Worker) -> bool:
        """Return whether a worker could use its GPU."""
        if trial.exit_code is None and not self._fork_server.wait(END_S, [trial]):
            trial.signal(signal.SIGKILL)
            self._fork_server.wait(among=[trial])
        return trial.value is True


@contextmanager
def service(
    wanted: bool | None, variables: Mapping[str, str], fork_server: ForkServer, begun: Service | None = None
) -> Iterator[Mapping[str, str]]:
    """Provide MPS to the jobs of a sweep inside the block: give the variables that make a job a client, none without MPS.

    `wanted`: None uses it where it works; UsageError if it is wanted and does not. `begun`: one that was begun earlier, if any.
    """
    if wanted is False:
        if begun is not None:
            begun.ending.close()
        yield {}
        return
    mine = begun or Service(variables, fork_server)
    with mine.ending:
        try:
            yield mine.client(bool(wanted))
        except BaseException:
            fork_server.close()  # the daemon waits for its clients
            raise


def _at_once(wait: Callable[[], object]) -> None:
    wait()


@contextmanager
def daemon(
    tool: str, variables: Mapping[str, str], at_end: Callable[[Callable[[], object]], None] = _at_once
) -> Iterator[Mapping[str, str] | None]:
    """Run a daemon inside the block. Gives the variables by which a process becomes its client; None when it does not start.

    `variables`: those of the jobs that choose the order of the GPUs; `at_end`: gets what waits for the end of the daemon, which
    begins with that of the block. It also ends with this process, even if that is killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="train-mps-"))
    client = {PIPES: str(folder / "pipes"), LOGS: str(folder / "logs")}
    for path in client.values():
        Path(path).mkdir()
    # It sees all GPUs: those that it sees are counted anew, and each client is to name its own as it would without a daemon.
    own = {name: value for name, value in (os.environ | dict(variables)).items() if name != "CUDA_VISIBLE_DEVICES"} | client
    watcher = subprocess.Popen(  # first, so that at no time a daemon is without it
        ["/bin/sh", "-c", WATCHER, tool, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=own,
        start_new_session=True,
    )
    try:
        yield client if _run(tool, own, "", "-d") == 0 else None
    except BaseException:
        _end(watcher)()
        raise
    at_end(_end(watcher))


def _end(watcher: subprocess.Popen[bytes]) -> Callable[[], None]:
    """Let the watcher end the daemon; return what waits for that."""
    assert watcher.stdin is not None
    watcher.stdin.close()

    def wait() -> None:
        with suppress(subprocess.TimeoutExpired):  # it goes on without us
            watcher.wait(END_S)

    return wait


def uses_gpu(_: object = None) -> bool:
    """Return whether this process computes on a GPU. Imports torch: call it in a worker."""
    import torch

    try:
        return bool(torch.ones(1, device="cuda").sum().item() == 1)
    except Exception as error:  # torch raises RuntimeError and AssertionError
        say(str(error), error=True)
        return False


def _run(tool: str, environment: Mapping[str, str], text: str, *arguments: str) -> int | None:
    """Run the tool with `text` as its input; return its exit code, None when it cannot be run. Nothing is read from it, since the
    daemon keeps its outputs open."""
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.run(
            [tool, *arguments],
            input=text,
            text=True,
            stdout=nowhere,
            stderr=nowhere,
            env=dict(environment),
            timeout=ANSWER_S,
            start_new_session=True,
            check=False,
        ).returncode
    except (OSError, subprocess.SubprocessError):
        return None
