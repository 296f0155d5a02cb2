"""A sweep on a real Slurm of one node: submitted, preempted, killed at random, and made to the end by the repeated command."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import SMALL
from tests.sweep.slurm import slurm_of_one_node
from train.store.run import Run, find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
SWEEP = [*SMALL, "trainer.epochs=3", "trainer.max_steps=null", "trainer.device=cpu", "norm=none,batch", "seed=range(2)"]
PATIENCE_S = 240
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_of_one_node(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, python_with: Callable[[str], str]) -> dict[tuple[str, ...], bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    command = [python_with("submitit"), "-m", "train.cli", "-m", *SWEEP, f"hydra.sweep.dir={folder}"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=PATIENCE_S)
    return weights(folder)


def start(python: str, folder: Path, slurm: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    settings = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", f"hydra.sweep.dir={folder}"]
    command = [python, "-m", "train.cli", "-m", *SWEEP, *settings, *overrides]
    return subprocess.Popen(command, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def repeat(python: str, folder: Path, slurm: dict[str, str], *overrides: str) -> str:
    """Run the command, and return what it says after its jobs have left the queue."""
    said, _ = start(python, folder, slurm, *overrides).communicate(timeout=PATIENCE_S)
    wait_for_queue(slurm)
    return said


def queue(slurm: dict[str, str]) -> list[str]:
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    return subprocess.run(command, env=os.environ | slurm, check=True, capture_output=True, text=True).stdout.split()


def wait_for_queue(slurm: dict[str, str], ended: Callable[[], bool] = lambda: False) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while queue(slurm) and not ended():
        assert time.monotonic() < deadline, queue(slurm)
        time.sleep(0.5)


def runs_of(folder: Path) -> dict[tuple[str, ...], Run]:
    """Return overrides -> run; each is there once."""
    runs = [read_run(path) for path in find_runs([folder])]
    found = {run.overrides: run for run in runs}
    assert len(found) == len(runs)
    return found


def weights(folder: Path) -> dict[tuple[str, ...], bytes]:
    return {overrides: (run.folder / "weights.pt").read_bytes() for overrides, run in runs_of(folder).items()}


def workers(slurm: dict[str, str]) -> list[int]:
    """Return the processes of the jobs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            is_ours = f"SLURM_CONF={slurm['SLURM_CONF']}".encode() in environment
            if is_ours and any(line.startswith(b"SLURM_PROCID=") for line in environment):
                found.append(int(folder.name))
    return found


def test_command_ends_and_its_repetition_finds_the_runs(
    slurm: dict[str, str], python_with: Callable[[str], str], undisturbed: dict[tuple[str, ...], bytes], tmp_path: Path
) -> None:
    python, folder = python_with("submitit"), tmp_path / "sweep"
    process = start(python, folder, slurm, "hydra.launcher.runs_per_job=2")
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert re.search(r"submitted job array \d+: 2 jobs of up to 2 runs", said), said
    assert re.search(r"sweep  4 runs: .*(queued in Slurm|still running)", said), said
    assert "WARNING" not in said
    second, _ = start(python, folder, slurm, "hydra.launcher.runs_per_job=2").communicate(timeout=PATIENCE_S)
    assert "submitted" not in second, second
    wait_for_queue(slurm)
    last = repeat(python, folder, slurm, "hydra.launcher.runs_per_job=2")
    assert "sweep  4 runs: 4 done" in last, last
    assert "submitted" not in last
    assert weights(folder) == undisturbed


@pytest.mark.parametrize("seed", [0, 1])
def test_sweep_survives_random_kills(
    seed: int,
    slurm: dict[str, str],
    python_with: Callable[[str], str],
    undisturbed: dict[tuple[str, ...], bytes],
    tmp_path: Path,
) -> None:
    python, folder, draw = python_with("submitit"), tmp_path / "sweep", random.Random(seed)
    command = start(python, folder, slurm)
    with suppress(subprocess.TimeoutExpired):
        command.wait(draw.uniform(3, 15))
    command.kill()
    command.communicate()
    for _ in range(3):
        said, _ = start(python, folder, slurm).communicate(timeout=PATIENCE_S)
        time.sleep(draw.uniform(0, 8))
        if found := workers(slurm):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
        if jobs := queue(slurm):
            subprocess.run(["scontrol", "requeue", draw.choice(jobs)], env=os.environ | slurm, capture_output=True, check=False)
            for job in queue(slurm):  # Slurm lets a job that was queued again wait for two minutes
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=os.environ | slurm, check=False)
    wait_for_queue(slurm)
    said = ""
    for _ in range(3):
        said = repeat(python, folder, slurm)
        if "sweep  4 runs: 4 done" in said:
            break
    assert "sweep  4 runs: 4 done" in said, said
    assert weights(folder) == undisturbed
