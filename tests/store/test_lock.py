"""The lock of a run folder: exactly one process gets it, the others learn its holder, and dead processes hold nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL, train_in_process
from train.cli import ENVIRONMENT
from train.errors import UsageError
from train.store.failure import RunRequest, write_failure
from train.store.files import write_json
from train.store.lock import Lock, is_held, last_holder, start_ticks
from train.store.run import read_run
from train.store.run_folder import RunFolder
from train.sweep.fork_server import ForkServer

ROOT = Path(__file__).resolve().parents[2]
HOLD_FOLDER = """
import sys, time
from pathlib import Path
from train.store.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.claim({"seed": 0}, [])
print("claimed", flush=True)
time.sleep(60)
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that claims the folder and sleeps."""
    process = subprocess.Popen([sys.executable, "-c", HOLD_FOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    return process


def test_lock_names_its_holder_until_the_holder_dies(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    try:
        assert is_held(tmp_path)
        assert read_run(tmp_path).state == "running"
        with pytest.raises(
            UsageError, match=rf"another process \({process.pid} on {socket.gethostname()}, since 20\d\d-.*\) is using"
        ):
            RunFolder(tmp_path).lock()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    assert not is_held(tmp_path)
    assert read_run(tmp_path).state == "lost"
    folder = RunFolder(tmp_path)
    folder.lock()
    holder = last_holder(tmp_path)
    assert holder is not None
    assert holder.pid == os.getpid()
    folder.release()


def test_lock_ignores_a_reused_process_id(tmp_path: Path) -> None:
    """The dead process's id is now this process's. Checked on file systems without locks, too, which compare process ids."""
    process = start_holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    lock = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps(lock | {"pid": os.getpid()}))
    write_json(tmp_path / "status.json", dict(read_run(tmp_path).status) | {"pid": os.getpid()})
    assert read_run(tmp_path).state == "lost"
    holder = last_holder(tmp_path)
    assert holder is not None
    assert not holder.may_be_alive(), "a process with this id is alive, but started at another time"
    (tmp_path / ".lock").write_text(json.dumps(lock | {"pid": os.getpid(), "ticks": start_ticks(os.getpid())}))
    present = last_holder(tmp_path)
    assert present is not None
    assert present.may_be_alive()
    assert Lock(tmp_path).acquire() is None


def test_acquire_waits_for_shared_checks_and_release_frees_the_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    assert is_held(tmp_path) is None, "there is no lock yet"
    assert lock.acquire() is None
    assert lock.acquire() is None, "this object holds it already"
    assert Lock(tmp_path).acquire() is not None
    lock.release()
    lock.release()
    assert is_held(tmp_path) is False
    with (tmp_path / ".lock").open() as shared:
        import fcntl

        fcntl.flock(shared, fcntl.LOCK_SH)
        assert Lock(tmp_path).acquire() is not None, "while a check holds the shared lock"
    assert Lock(tmp_path).acquire() is None


HOLD_LIKE_EARLIER_VERSIONS = """
import fcntl, json, os, socket, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
fcntl.flock(file, fcntl.LOCK_EX)
with open("/proc/self/stat") as stat:
    ticks = int(stat.read().rpartition(")")[2].split()[19])
content = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-02 03:04:05", "ticks": ticks}
os.pwrite(file, json.dumps(content).encode(), 0)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="earlier versions read /proc")
def test_lock_of_earlier_versions_is_respected(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LIKE_EARLIER_VERSIONS, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    holder = Lock(tmp_path).acquire()
    assert holder is not None
    assert str(holder) == f"{process.pid} on {socket.gethostname()}, since 2026-01-02 03:04:05"
    assert is_held(tmp_path)
    assert holder.ticks == start_ticks(process.pid)
    process.communicate("", timeout=30)
    assert not is_held(tmp_path)
    assert not holder.may_be_alive()
    assert Lock(tmp_path).acquire() is None


def test_earlier_versions_respect_the_lock(tmp_path: Path) -> None:
    """They take it with `flock`, check it with a shared one, and read these four fields."""
    import fcntl

    assert Lock(tmp_path).acquire() is None
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        with (tmp_path / ".lock").open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    content = json.loads((tmp_path / ".lock").read_text())
    assert list(content) == ["pid", "host", "since", "ticks"]
    assert (content["pid"], content["host"]) == (os.getpid(), socket.gethostname())
    if Path("/proc/self/stat").exists():
        assert content["ticks"] == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def test_without_file_locks_the_recorded_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    lock = Lock(tmp_path)
    assert lock.acquire() is None
    assert is_held(tmp_path) is True
    holder = Lock(tmp_path).acquire()
    assert holder is not None
    assert holder.pid == os.getpid()
    lock.release()
    assert is_held(tmp_path) is None, "nobody is recorded"
    process = start_holder(tmp_path)
    assert is_held(tmp_path) is True
    process.kill()
    process.communicate(timeout=30)
    assert is_held(tmp_path) is False
    assert Lock(tmp_path).acquire() is None


def test_simultaneous_checks_do_not_disturb_each_other(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    lock.release()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: is_held(tmp_path), range(2000)))


def test_acquire_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    (tmp_path / ".lock").symlink_to(tmp_path / "diary.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        RunFolder(tmp_path).lock()
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


def test_finished_run_releases_its_lock(tmp_path: Path) -> None:
    train_in_process(tmp_path / "run", SMALL)
    assert is_held(tmp_path / "run") is False
    assert read_run(tmp_path / "run").state == "done"


def test_write_failure_releases_the_lock(tmp_path: Path) -> None:
    request = RunRequest({"seed": 0}, ["seed=0"], {})
    write_failure(tmp_path / "run", request, "failed", "killed", exit_code=137)
    assert is_held(tmp_path / "run") is False
    assert read_run(tmp_path / "run").state == "failed"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_failure(tmp_path / "other", request, "failed", "killed", wall_s=math.nan)
    assert is_held(tmp_path / "other") is False, "also if the status could not be written"


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_failure_is_not_written_over_a_run_that_has_ended(state: str, tmp_path: Path) -> None:
    """Another process made the run, and let go of it between a refusal and the record of it."""
    request, folder = RunRequest({"seed": 0}, ["seed=0"], {}), RunFolder(tmp_path / "run")
    folder.claim(request.config, request.overrides)
    with pytest.raises(UsageError, match="another process"):
        write_failure(folder.path, request, "failed", "refused", exit_code=1)
    folder.update(status=state)
    folder.release()
    before = folder.status_file.read_bytes()
    assert not write_failure(folder.path, request, "failed", "refused", exit_code=1)
    assert folder.status_file.read_bytes() == before
    assert is_held(folder.path) is False


def test_failure_is_written_over_a_run_whose_process_is_lost(tmp_path: Path) -> None:
    request, folder = RunRequest({"seed": 0}, ["seed=0"], {}), RunFolder(tmp_path / "run")
    folder.claim(request.config, request.overrides)
    folder.release()
    assert write_failure(folder.path, request, "failed", "killed", exit_code=137)
    assert (read_run(folder.path).state, read_run(folder.path).reason) == ("failed", "killed")


def start_train(folder: Path, *more: str) -> subprocess.Popen[str]:
    arguments = [str(COMMAND), *SMALL, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_at_once(fork_server: ForkServer, folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Run the commands in processes that have imported torch already, so that they meet; return exit code and stderr of each."""
    orders = [
        ([*SMALL, *command], str(folder), str(folder / f"{number}.out"), str(folder / f"{number}.err"))
        for number, command in enumerate(commands)
    ]
    workers = [
        fork_server.start("tests.harness:run_command_in_worker", order, environment=ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""})
        for order in orders
    ]
    while any(worker.exit_code is None for worker in workers):
        assert fork_server.wait(120), "a command hangs"
    return [(worker.exit_code or 0, Path(order[3]).read_text()) for worker, order in zip(workers, orders, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.long)])
def test_claim_of_one_folder_by_many_commands_succeeds_once(fork_server: ForkServer, tmp_path: Path, count: int) -> None:
    target = tmp_path / "run"
    results = run_at_once(fork_server, tmp_path, [[f"hydra.run.dir={target}", f"seed={number}"] for number in range(count)])
    codes = [code for code, _ in results]
    assert sorted(codes) == [0, *[2] * (count - 1)]
    winner = codes.index(0)
    assert read_run(target).state == "done"
    assert read_run(target).seed == winner
    for code, error in results:
        assert code == 0 or "already holds a run" in error or "is using this run folder" in error
        assert len(error.splitlines()) <= 1


@pytest.mark.long
@pytest.mark.slow
def test_simultaneous_commands_get_distinct_folders(fork_server: ForkServer, tmp_path: Path) -> None:
    results = run_at_once(fork_server, tmp_path, [[]] * 8)
    assert [code for code, _ in results] == [0] * 8
    assert len(list((tmp_path / "outputs").glob("*/summary.json"))) == 8


@pytest.mark.long
def test_resume_of_one_run_by_many_commands_succeeds_once(tmp_path: Path) -> None:
    target = tmp_path / "run"
    first = start_train(
        tmp_path, f"hydra.run.dir={target}", "trainer.epochs=100000", "trainer.max_steps=null", "schedule=constant"
    )
    deadline = time.monotonic() + 120
    while not (target / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    refused = subprocess.run(
        [str(COMMAND), f"resume={target}"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert refused.returncode == 2
    assert f"another process ({first.pid} on {socket.gethostname()}" in refused.stderr
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    processes = [
        subprocess.Popen([str(COMMAND), f"resume={target}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline + 120:
        time.sleep(0.1)
    (survivor,) = (process for process in processes if process.poll() is None)
    holder = last_holder(target)
    assert holder is not None
    assert holder.pid == survivor.pid
    survivor.send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [2, 2, 143]
    assert all(
        f"another process ({survivor.pid} on" in error
        for error, process in zip(errors, processes, strict=True)
        if process is not survivor
    )
