"""The fixtures that run the command `train`, and what the marks `long`, `cuda` and `slow` do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.harness import COMMAND, hidden_gpus
from train.cli import ENVIRONMENT
from train.sweep.fork_server import ForkServer
from train.text import plural

# Torch reads it once, at the first matrix product on a GPU, which may happen in a test without a session.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A suite that `nohup` or a script's `&` starts ignores them, and so would the commands that tests interrupt.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

GPU = "GPU that torch can use"

Train: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Imports torch once for all commands of the session."""
    forkserver._forkserver._stop()  # pyright: ignore[reportAttributeAccessIssue]  # that of a test before, which imported less
    with ForkServer(threads=1) as server:
        yield server


@pytest.fixture(scope="session")
def train_in(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that runs the command `train` in a folder, in a process that has torch imported; so have its jobs.

    `real_train` starts the installed command instead, several seconds slower.
    """

    def run(folder: Path, *arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        output = tmp_path_factory.mktemp("output")
        files = output / "stdout", output / "stderr"
        address = forkserver._forkserver._forkserver_address  # pyright: ignore[reportAttributeAccessIssue]
        order = (arguments, str(folder), *map(str, files), address)
        variables = ENVIRONMENT | {"COLUMNS": "100"} | environment
        worker = fork_server.start("tests.harness:run_command_in_worker", order, environment=variables)
        if not fork_server.wait(timeout, [worker]):
            worker.signal(signal.SIGKILL)
            fork_server.wait(among=[worker])
            raise subprocess.TimeoutExpired(["train", *arguments], timeout)
        stdout, stderr = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(["train", *arguments], worker.exit_code or 0, stdout, stderr)

    return run


@pytest.fixture
def train(train_in: Train, tmp_path: Path) -> Train:
    """Return a function that runs the command `train` in an empty folder, as `train_in` does."""
    return partial(train_in, tmp_path)


@pytest.fixture
def real_train(tmp_path: Path) -> Train:
    """Return a function that runs the installed command `train` in its own process, in an empty folder."""

    def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long` unless -m names the mark, and skip those marked `cuda` where there is no GPU.

    Files with the most slow tests come first, so that processes that share the files end together.
    """
    if "long" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    cuda = [item for item in items if item.get_closest_marker("cuda")]
    if cuda and not _has_gpu():
        for item in cuda:
            item.add_marker(pytest.mark.skip(reason=f"no {GPU}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide the GPUs from a test that is not marked `cuda`, from its fixtures and from the processes that it starts.

    A CUDA context takes a second and half a gigabyte, and many processes that share a GPU wait for each other.
    """
    with nullcontext() if item.get_closest_marker("cuda") else hidden_gpus():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say in one line, below all others, how many tests were skipped for want of a GPU."""
    yield
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    if count := sum(isinstance(place, tuple) and place[2].endswith(GPU) for place in skipped):
        terminalreporter.write_line(f"Skipped for want of a {GPU}: {plural(count, 'test')} marked cuda")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
