"""One process to a run folder: of all who come exactly one gets it, the others are told who has it, and the dead hold nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL, run_here
from train.errors import UsageError
from train.run.failure import RunRequest, write_failure
from train.run.folder import RunFolder, write_json
from train.store.lock import Lock, is_held, last_holder, start_ticks
from train.store.run import read_run

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from train.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.claim({"seed": 0}, [])
print("mine", flush=True)
time.sleep(60)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_process_is_told_who_has_the_folder_until_that_one_dies(tmp_path: Path) -> None:
    process = holding(tmp_path)
    try:
        assert is_held(tmp_path)
        assert read_run(tmp_path).state == "running"
        with pytest.raises(UsageError, match=rf"process {process.pid} on {socket.gethostname()}, since 20\d\d-"):
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


def test_a_number_that_another_program_has_by_now_holds_nothing(tmp_path: Path) -> None:
    """The dead process's number is now this one's; also where the file system knows no locks and numbers must do."""
    process = holding(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    lock = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps(lock | {"pid": os.getpid()}))
    write_json(tmp_path / "status.json", dict(read_run(tmp_path).status) | {"pid": os.getpid()})
    assert read_run(tmp_path).state == "lost"
    holder = last_holder(tmp_path)
    assert holder is not None
    assert not holder.may_be_alive(), "a process of this number lives, but began at another time"
    (tmp_path / ".lock").write_text(json.dumps(lock | {"pid": os.getpid(), "ticks": start_ticks(os.getpid())}))
    other = last_holder(tmp_path)
    assert other is not None
    assert other.may_be_alive()
    assert Lock(tmp_path).acquire() is None


def test_the_lock_is_given_back_and_looking_is_in_nobodys_way(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    assert is_held(tmp_path) is None, "there is no lock yet"
    assert lock.acquire() is None
    assert lock.acquire() is None, "it is ours already"
    assert Lock(tmp_path).acquire() is not None
    lock.release()
    lock.release()
    assert is_held(tmp_path) is False
    with (tmp_path / ".lock").open() as looking:
        import fcntl

        fcntl.flock(looking, fcntl.LOCK_SH)
        assert Lock(tmp_path).acquire() is not None, "for as long as somebody looks"
    assert Lock(tmp_path).acquire() is None


def test_an_ended_run_holds_nothing(tmp_path: Path) -> None:
    run_here(tmp_path / "run", [*SMALL, "observe=off"])
    assert is_held(tmp_path / "run") is False
    assert read_run(tmp_path / "run").state == "done"


def test_word_left_for_a_run_that_never_began_holds_nothing(tmp_path: Path) -> None:
    asked = RunRequest({"seed": 0}, ["seed=0"], {})
    write_failure(tmp_path / "run", asked, "failed", "killed", exit_code=137)
    assert is_held(tmp_path / "run") is False
    assert read_run(tmp_path / "run").state == "failed"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_failure(tmp_path / "other", asked, "failed", "killed", wall_s=math.nan)
    assert is_held(tmp_path / "other") is False, "also where it could not be written"


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    arguments = [str(COMMAND), *SMALL, "observe=off", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.faults)])
def test_of_many_that_start_in_one_folder_exactly_one_trains(tmp_path: Path, count: int) -> None:
    target = tmp_path / "run"
    processes = [start(tmp_path, f"hydra.run.dir={target}", f"seed={number}") for number in range(count)]
    said = [process.communicate(timeout=600)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, *[2] * (count - 1)]
    winner = codes.index(0)
    assert read_run(target).state == "done"
    assert read_run(target).seed == winner
    for code, error in zip(codes, said, strict=True):
        assert code == 0 or "already holds a run" in error
        assert len(error.splitlines()) <= 1


@pytest.mark.faults
@pytest.mark.slow
def test_eight_that_start_in_one_second_without_a_name_get_folders_of_their_own(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(8)]
    for process in processes:
        process.communicate(timeout=600)
    assert [process.returncode for process in processes] == [0] * 8
    assert len(list((tmp_path / "outputs").glob("*/summary.json"))) == 8


@pytest.mark.faults
def test_of_many_that_go_on_with_one_run_exactly_one_does(tmp_path: Path) -> None:
    target = tmp_path / "run"
    first = start(tmp_path, f"hydra.run.dir={target}", "trainer.epochs=100000", "trainer.max_steps=null", "schedule=constant")
    deadline = time.monotonic() + 120
    while not (target / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    refused = subprocess.run(
        [str(COMMAND), f"resume={target}"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert refused.returncode == 2
    assert f"process {first.pid} on {socket.gethostname()}" in refused.stderr
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    processes = [
        subprocess.Popen([str(COMMAND), f"resume={target}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline + 120:
        time.sleep(0.1)
    (going,) = (process for process in processes if process.poll() is None)
    holder = last_holder(target)
    assert holder is not None
    assert holder.pid == going.pid
    going.send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [2, 2, 143]
    assert all(f"process {going.pid} on" in error for error, process in zip(said, processes, strict=True) if process is not going)
