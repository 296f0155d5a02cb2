"""The repeated command on a real Slurm: it finds what Slurm has, however the last one ended, and what it cannot see yet."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.harness import SMALL
from tests.sweep.slurm import (
    HELD,
    ONE,
    PATIENCE_S,
    SHORT,
    ask,
    contents,
    finish,
    queue,
    repeat,
    runs_of,
    start,
    wait_for_queue,
)

pytestmark = pytest.mark.long


def release_held(slurm: dict[str, str]) -> None:
    for job in queue(slurm):
        ask(slurm, "scontrol", "release", job)


def test_single_job_is_found_by_the_next_command(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """submitit makes no array of it."""
    folder = tmp_path / "sweep"
    said, code = finish(python, folder, slurm, HELD, sweep=ONE)
    assert "sweep  1 run: 1 queued in Slurm" in said, said
    assert code == 0
    said, code = finish(python, folder, slurm, HELD, sweep=ONE)
    assert "submitted" not in said, said
    assert code == 0
    assert len(queue(slurm)) == 1


def test_run_whose_files_appear_late_is_not_made_again(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """On a network file system the repeated command may not see yet what a node has written. The job does."""
    folder, hidden = tmp_path / "sweep", tmp_path / "hidden"
    assert "sweep  1 run: 1 done" in repeat(python, folder, slurm, "hydra.launcher.wait=true", sweep=ONE)
    before = contents(folder)
    (run,) = runs_of(folder).values()
    run.folder.rename(hidden)
    said, _ = finish(python, folder, slurm, HELD, sweep=ONE)
    assert "submitted job" in said, said
    hidden.rename(run.folder)
    release_held(slurm)
    wait_for_queue(slurm)
    assert "sweep  1 run: 1 done" in repeat(python, folder, slurm, sweep=ONE)
    assert contents(folder) == before
    (found,) = runs_of(folder).values()
    assert found.status == run.status, "it has the times of the first attempt"
    logs = [log.read_text() for log in (folder / ".submitit").rglob("*_log.out")]
    assert sorted("running" in log for log in logs) == [False, True]


def test_command_stopped_while_it_submits_loses_nothing(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C reaches the command and sbatch, which may have sent its jobs."""
    folder, slow = tmp_path / "sweep", tmp_path / "slow"
    slow.mkdir()
    script = f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\ntouch {tmp_path}/sent\nsleep 600\n'
    (slow / "sbatch").write_text(script)
    (slow / "sbatch").chmod(0o755)
    process = start(python, folder, slurm | {"PATH": f"{slow}:{os.environ['PATH']}"}, HELD, sweep=SHORT)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "sent").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "jobs that Slurm has taken go on: squeue --name=train-" in said
    assert "Traceback" not in said
    found, _ = finish(python, folder, slurm, sweep=SHORT)
    assert "submitted" not in found, found
    assert "sweep  4 runs: 4 queued in Slurm" in found
    ask(slurm, "scancel", "--me")  # they would not find their pickles, which the command did not get to put in place
    wait_for_queue(slurm)
    assert "sweep  4 runs: 4 done" in finish(python, folder, slurm, "hydra.launcher.wait=true", sweep=SHORT)[0]
    assert len(runs_of(folder)) == 4


def test_array_too_long_for_the_cluster_names_the_remedy(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """`MaxArraySize` is 9 here."""
    sweep = [*SMALL, "trainer.device=cpu", "seed=range(10)"]
    said, code = finish(python, tmp_path / "sweep", slurm, HELD, sweep=sweep)
    assert code == 2, said
    assert "Invalid job array specification" in said
    assert "hydra.launcher.runs_per_job=8" in said
    assert queue(slurm) == []
