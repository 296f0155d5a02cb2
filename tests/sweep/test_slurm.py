"""A sweep on a real Slurm of one node: submitted, preempted, killed at random, and made to the end by the repeated command."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness import SMALL
from tests.sweep.slurm import (
    contents,
    finish,
    queue,
    release,
    repeat,
    start,
    table,
    undisturbed_sweep,
    wait_for_queue,
    workers,
)
from train.store.run import find_runs, read_run

SWEEP = [
    *(*SMALL, "trainer.max_steps=null", "trainer.epochs=400", "trainer.evaluate_every=100", "checkpoint.every_steps=100"),
    *("trainer.device=cpu", "norm=none,batch", "seed=range(2)"),
]
"""Each of its runs takes some seconds."""
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, python_with: Callable[[str], str]) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    return undisturbed_sweep(folder, python_with("submitit"), SWEEP), table(folder)


def test_command_ends_and_its_repetition_finds_the_runs(
    slurm: dict[str, str], python_with: Callable[[str], str], undisturbed: tuple[Any, Any], tmp_path: Path
) -> None:
    python, folder = python_with("submitit"), tmp_path / "sweep"
    said, code = finish(python, folder, slurm, "hydra.launcher.runs_per_job=2", sweep=SWEEP)
    assert code == 0, said
    assert re.search(r"submitted job array \d+: 2 jobs of up to 2 runs", said), said
    assert re.search(r"sweep  4 runs: .*(queued in Slurm|still running)", said), said
    assert "WARNING" not in said
    second, _ = finish(python, folder, slurm, "hydra.launcher.runs_per_job=2", sweep=SWEEP)
    assert "submitted" not in second, second
    wait_for_queue(slurm)
    last = repeat(python, folder, slurm, "hydra.launcher.runs_per_job=2", sweep=SWEEP)
    assert "sweep  4 runs: 4 done" in last, last
    assert "submitted" not in last
    assert (contents(folder), table(folder)) == undisturbed


def in_training(folder: Path) -> bool:
    """Return whether a run has saved a checkpoint and has not ended."""
    return any(read_run(path).state == "running" and list(path.glob("checkpoints/step-*")) for path in find_runs([folder]))


@pytest.mark.parametrize("seed", [0, 1])
def test_sweep_survives_random_kills(
    seed: int,
    slurm: dict[str, str],
    python_with: Callable[[str], str],
    undisturbed: tuple[Any, Any],
    tmp_path: Path,
) -> None:
    python, folder, draw = python_with("submitit"), tmp_path / "sweep", random.Random(seed)
    command = start(python, folder, slurm, sweep=SWEEP)
    with suppress(subprocess.TimeoutExpired):
        command.wait(draw.uniform(3, 15))
    command.kill()
    command.communicate()
    hits = 0
    for _ in range(3):
        if not queue(slurm):
            finish(python, folder, slurm, sweep=SWEEP)
        wait_for_queue(slurm, lambda: in_training(folder))
        time.sleep(draw.uniform(0, 0.5))
        was_training = in_training(folder)
        if found := workers(slurm):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
                hits += was_training
        if jobs := queue(slurm):
            subprocess.run(["scontrol", "requeue", draw.choice(jobs)], env=os.environ | slurm, capture_output=True, check=False)
            release(slurm)
    wait_for_queue(slurm)
    assert hits, "a process was killed while a run trained"
    said = ""
    for _ in range(3):
        said = repeat(python, folder, slurm, sweep=SWEEP)
        if "sweep  4 runs: 4 done" in said:
            break
    assert "sweep  4 runs: 4 done" in said, said
    assert (contents(folder), table(folder)) == undisturbed
