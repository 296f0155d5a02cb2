"""The process that forks: what a call gives back, how it may end, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from train.sweep.fork_server import ForkServer, ForkServerLost, Worker, WorkerExit

HERE = Path(__file__).parent
CALLS = "fork_server_calls"


def new(threads: int = 1) -> ForkServer:
    sys.path.insert(0, str(HERE / "awkward"))  # the process gets this path
    try:
        return ForkServer(threads)
    finally:
        sys.path.remove(str(HERE / "awkward"))


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with new() as fork_server:
        yield fork_server


def outcome(fork_server: ForkServer, call: str, argument: object = None, **options: object) -> WorkerExit:
    child = fork_server.start(f"{CALLS}:{call}", argument, **options)  # pyright: ignore[reportArgumentType]
    (ended,) = fork_server.wait(60)
    assert ended.worker == child
    return ended


def lives(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_call_returns_its_value_from_a_process_that_has_torch_already(fork_server: ForkServer) -> None:
    seen = outcome(fork_server, "look", {"some": ["argument"]}, environment={"A_DEVICE": "3"}).value
    assert seen["argument"] == {"some": ["argument"]}
    assert seen["device"] == "3"
    assert seen["had_torch"]
    assert not seen["cuda_initialised"]
    assert seen["session"] == seen["pid"], "its own session: a terminal's Ctrl-C does not reach it"
    assert seen["stdin"] == ""


def test_the_process_has_one_thread_so_that_a_fork_copies_all_of_it(fork_server: ForkServer) -> None:
    assert outcome(fork_server, "threads_of_parent").value == 1


def test_threads_of_tensor_operations(fork_server: ForkServer) -> None:
    assert outcome(fork_server, "tensor_threads").value == (1, "1")
    assert outcome(fork_server, "tensor_threads", threads=2).value == (2, "2")


@pytest.mark.parametrize(
    ("call", "exit_code", "said"),
    [
        ("fails", 1, "ValueError: on purpose"),
        ("leaves", 7, ""),
        ("crashes", -signal.SIGSEGV, "Segmentation fault"),
        ("dies", -signal.SIGKILL, ""),
        ("no_such_function", 1, "AttributeError"),
    ],
)
def test_however_a_call_ends_the_others_go_on(
    fork_server: ForkServer, tmp_path: Path, call: str, exit_code: int, said: str
) -> None:
    ended = outcome(fork_server, call, log=tmp_path / "deep" / "log")
    assert (ended.exit_code, ended.value) == (exit_code, None)
    assert said in (tmp_path / "deep" / "log").read_text()
    assert outcome(fork_server, "large", 3_000_000).value == "x" * 3_000_000


def test_a_signal_goes_to_one_child(fork_server: ForkServer) -> None:
    first, second = (fork_server.start(f"{CALLS}:sleeps") for _ in range(2))
    assert fork_server.wait(0.3) == []
    fork_server.signal(first, signal.SIGTERM)
    (ended,) = fork_server.wait(60)
    assert (ended.worker, ended.exit_code) == (first, -signal.SIGTERM)
    assert fork_server.workers == (second,)
    fork_server.signal(second, signal.SIGKILL)
    (ended,) = fork_server.wait(60)
    assert ended.exit_code == -signal.SIGKILL
    assert fork_server.wait(60) == [], "nobody is alive: there is nothing to wait for"
    fork_server.signal(Worker(0), signal.SIGTERM)


def test_what_a_child_started_ends_with_it(fork_server: ForkServer) -> None:
    grandchild = outcome(fork_server, "leaves_one_behind").value
    wait_until(lambda: not lives(grandchild))


def test_children_die_with_the_process_and_the_controller_hears_of_it(tmp_path: Path) -> None:
    with new() as fork_server:
        pids = tmp_path / "pids"
        fork_server.start(f"{CALLS}:tells_and_sleeps", str(pids))
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        parent, child = map(int, pids.read_text().split())
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(ForkServerLost, match="SIGKILL"):
            fork_server.wait(60)
        wait_until(lambda: not lives(child))
        with pytest.raises(ForkServerLost):
            fork_server.start(f"{CALLS}:sleeps")


def test_the_controllers_side_starts_without_torch() -> None:
    program = "import sys, train.sweep.fork_server, train.sweep.pool, train.sweep.display; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "False"
