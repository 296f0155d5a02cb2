"""The fork server: return values and exit codes of its workers, and that no process is left behind."""

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


def start_fork_server(threads: int = 1) -> ForkServer:
    sys.path.insert(0, str(HERE / "awkward"))  # the server inherits it
    try:
        return ForkServer(threads)
    finally:
        sys.path.remove(str(HERE / "awkward"))


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with start_fork_server() as fork_server:
        yield fork_server


def outcome(fork_server: ForkServer, call: str, argument: object = None, **options: object) -> WorkerExit:
    worker = fork_server.start(f"{CALLS}:{call}", argument, **options)  # pyright: ignore[reportArgumentType]
    (worker_exit,) = fork_server.wait(60)
    assert worker_exit.worker == worker
    return worker_exit


def is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_worker_returns_value_and_has_torch_imported(fork_server: ForkServer) -> None:
    state = outcome(fork_server, "process_state", {"some": ["argument"]}, environment={"A_DEVICE": "3"}).value
    assert state["argument"] == {"some": ["argument"]}
    assert state["device"] == "3"
    assert state["had_torch"]
    assert not state["cuda_initialised"]
    assert state["session"] == state["pid"], "its own session: Ctrl-C in a terminal does not reach it"
    assert state["stdin"] == ""


def test_fork_server_has_one_thread(fork_server: ForkServer) -> None:
    """A fork copies only the calling thread."""
    assert outcome(fork_server, "threads_of_parent").value == 1


def test_worker_uses_requested_threads(fork_server: ForkServer) -> None:
    assert outcome(fork_server, "tensor_threads").value == (1, "1")
    assert outcome(fork_server, "tensor_threads", threads=2).value == (2, "2")


@pytest.mark.parametrize(
    ("call", "exit_code", "message"),
    [
        ("fails", 1, "ValueError: on purpose"),
        ("leaves", 7, ""),
        ("crashes", -signal.SIGSEGV, "Segmentation fault"),
        ("dies", -signal.SIGKILL, ""),
        ("no_such_function", 1, "AttributeError"),
    ],
)
def test_failed_call_is_logged_and_server_continues(
    fork_server: ForkServer, tmp_path: Path, call: str, exit_code: int, message: str
) -> None:
    worker_exit = outcome(fork_server, call, log=tmp_path / "deep" / "log")
    assert (worker_exit.exit_code, worker_exit.value) == (exit_code, None)
    assert message in (tmp_path / "deep" / "log").read_text()
    assert outcome(fork_server, "large", 3_000_000).value == "x" * 3_000_000


def test_signal_reaches_one_worker(fork_server: ForkServer) -> None:
    first, second = (fork_server.start(f"{CALLS}:sleeps") for _ in range(2))
    assert fork_server.wait(0.3) == []
    fork_server.signal(first, signal.SIGTERM)
    (worker_exit,) = fork_server.wait(60)
    assert (worker_exit.worker, worker_exit.exit_code) == (first, -signal.SIGTERM)
    assert fork_server.workers == (second,)
    fork_server.signal(second, signal.SIGKILL)
    (worker_exit,) = fork_server.wait(60)
    assert worker_exit.exit_code == -signal.SIGKILL
    assert fork_server.wait(60) == [], "no workers: there is nothing to wait for"
    fork_server.signal(Worker(0), signal.SIGTERM)


def test_grandchild_dies_with_worker(fork_server: ForkServer) -> None:
    grandchild = outcome(fork_server, "starts_grandchild").value
    wait_until(lambda: not is_alive(grandchild))


def test_workers_die_with_server_and_wait_raises(tmp_path: Path) -> None:
    with start_fork_server() as fork_server:
        pids = tmp_path / "pids"
        fork_server.start(f"{CALLS}:writes_pids_and_sleeps", str(pids))
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        parent, worker = map(int, pids.read_text().split())
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(ForkServerLost, match="SIGKILL"):
            fork_server.wait(60)
        wait_until(lambda: not is_alive(worker))
        with pytest.raises(ForkServerLost):
            fork_server.start(f"{CALLS}:sleeps")


def test_controller_imports_no_torch() -> None:
    program = "import sys, train.sweep.fork_server, train.sweep.pool, train.sweep.display; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "False"
