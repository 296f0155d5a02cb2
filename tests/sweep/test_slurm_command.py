"""The command on a real Slurm: what it asks for, what it says, and what it leaves when it is stopped or refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.harness import COMMAND, SMALL
from tests.sweep.slurm import (
    HELD,
    ONE,
    PATIENCE_S,
    SHORT,
    ask,
    contents,
    finish,
    queue,
    release,
    repeat,
    runs_of,
    start,
    undisturbed_sweep,
    wait_for_queue,
)
from train.store.run import find_runs, read_run

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        ((), "N/A"),
        (("hydra.launcher.partition=gpu", "trainer.devices=2"), "gres:gpu:2"),
        (("hydra.launcher.partition=gpu", "hydra.launcher.gres='gpu:3'"), "gres:gpu:3"),
    ],
    ids=["none in the default partition", "one for each device", "gres"],
)
def test_job_asks_for_the_gpus_of_its_partition(
    overrides: Sequence[str], asked: str, python: str, slurm: dict[str, str], tmp_path: Path
) -> None:
    said, code = finish(python, tmp_path / "sweep", slurm, HELD, *overrides, sweep=ONE)
    assert code == 0, said
    assert ask(slurm, "squeue", "--me", "--noheader", "--format=%b").split() == [asked]


def test_what_slurm_refuses_is_said_in_its_words(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    said, code = finish(python, folder, slurm, "hydra.launcher.partition=nowhere", sweep=ONE)
    assert code == 2, said
    assert "hydra/launcher=slurm: the jobs were not submitted: " in said
    assert "Invalid" in said or "invalid" in said
    assert "Traceback" not in said
    assert queue(slurm) == []
    assert "sweep  1 run: 1 done" in repeat(python, folder, slurm, "hydra.launcher.wait=true", sweep=ONE)


def test_runs_that_wait_in_slurm_are_reported_and_found_by_the_next_command(
    python: str, slurm: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    said, code = finish(python, folder, slurm, HELD, sweep=SHORT)
    assert code == 0, said
    command = [str(COMMAND.with_name("train-report")), str(folder)]
    report = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "4 of the 4 runs of the plan have not ended" in report.stdout
    assert report.stderr == ""
    again, _ = finish(python, folder, slurm, "sweep.resume=last", sweep=SHORT)
    assert "submitted" not in again, again
    assert "4 queued in Slurm" in again


def test_command_that_waits_and_is_stopped_says_what_goes_on(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = start(python, folder, slurm, "hydra.launcher.wait=true", HELD, sweep=SHORT)
    deadline = time.monotonic() + PATIENCE_S
    while len(queue(slurm)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(2)  # it waits for the jobs now
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (name,) = set(re.findall(r"scancel --name=(train-\w+)", said))
    assert f"jobs that Slurm has taken go on: squeue --name={name}" in said
    assert set(ask(slurm, "squeue", "--me", "--noheader", "--format=%j").split()) == {name}


def test_stages_follow_as_the_command_is_repeated(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """A stage is decided by the command that follows it; the last one makes the report."""
    sweep = [*SMALL, "trainer.device=cpu", "norm=none,batch", "optimizer.lr=0.01,0.1", "sweep.tune=optimizer.lr"]
    sweep += ["sweep.tune_seeds=1", "sweep.tune_extend=0", "seed=range(2)"]
    folder = tmp_path / "sweep"
    first = repeat(python, folder, slurm, sweep=sweep)
    assert "repeat the command below for the next stage" in first, first
    stages = 1
    while "submitted" in (said := repeat(python, folder, slurm, sweep=sweep)):
        stages += 1
        assert stages < 8, said
    assert stages > 1
    assert "(final)" in said or "exploratory" not in said, said
    assert (folder / "report.html").exists()
    assert {run.state for run in runs_of(folder).values()} == {"done"}


def test_runs_of_one_job_share_it(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    folder, together = tmp_path / "sweep", ("hydra.launcher.runs_per_job=4", "hydra.launcher.runs_at_once=2")
    assert "1 job of up to 4 runs" in repeat(python, folder, slurm, *together, "hydra.launcher.cpus_per_task=2", sweep=SHORT)
    assert contents(folder) == undisturbed_sweep(tmp_path / "undisturbed", python, SHORT)
    (log,) = (folder / ".submitit").rglob("*_log.out")
    assert "2 at a time" in log.read_text()


def test_run_on_two_devices_is_one_job(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    folder, devices = tmp_path / "sweep", ("trainer.devices=2", "hydra.launcher.cpus_per_task=2")
    said = repeat(python, folder, slurm, *devices, "hydra.launcher.wait=true", sweep=ONE)
    assert "sweep  1 run: 1 done" in said, said
    assert [run.status["devices"] for run in runs_of(folder).values()] == [2]
    assert contents(folder) == undisturbed_sweep(tmp_path / "undisturbed", python, [*ONE, "trainer.devices=2"])


def test_array_that_a_killed_command_still_sends_is_not_made_twice(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """The command dies while sbatch sends, and Slurm takes the jobs after those of the repeated command."""
    folder, slow, sent = tmp_path / "sweep", tmp_path / "slow", tmp_path / "sent.sh"
    slow.mkdir()
    real = shutil.which("sbatch")
    assert real is not None
    (slow / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {sent}.part && mv {sent}.part {sent}\nexec sleep 600\n')
    (slow / "sbatch").chmod(0o755)
    process = start(python, folder, slurm | {"PATH": f"{slow}:{os.environ['PATH']}"}, sweep=SHORT)
    deadline = time.monotonic() + PATIENCE_S
    while not sent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()
    said, _ = finish(python, folder, slurm, sweep=SHORT)
    assert "submitted job array" in said, said
    ask(slurm, real, str(sent))
    assert len(queue(slurm)) > 4
    wait_for_queue(slurm)
    assert "sweep  4 runs: 4 done" in repeat(python, folder, slurm, sweep=SHORT)
    assert contents(folder) == undisturbed_sweep(tmp_path / "undisturbed", python, SHORT)


def test_run_goes_on_after_the_time_limit_of_its_job(python: str, slurm: dict[str, str], tmp_path: Path) -> None:
    """A minute is the shortest limit that Slurm has; submitit's signal comes before it."""
    sweep = [*ONE, "trainer.max_steps=null", "trainer.epochs=100000", "trainer.evaluate_every=100000"]
    folder, limits = tmp_path / "sweep", ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40")
    finish(python, folder, slurm, *limits, sweep=sweep)
    # Slurm waits two minutes before it starts a job anew, and an attempt whose start takes its whole time trains nothing.
    deadline = time.monotonic() + 3 * PATIENCE_S
    # A run's folder is there before its log.
    while not any("Resuming at step" in log.read_text() for log in folder.glob("*/train.log")):
        assert time.monotonic() < deadline, [read_run(path).status for path in find_runs([folder])]
        release(slurm)
        time.sleep(1)
    assert len(runs_of(folder)) == 1
