"""A sweeper of others that searches: a run without a score is a failed trial, and the command ends as the search says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import SMALL
from train.store.run import find_runs

Train = Callable[..., "subprocess.CompletedProcess[str]"]
SEARCHING = Path(__file__).with_name("searching")
SEARCH = ["--config-dir", str(SEARCHING / "conf"), "-m", "hydra/sweeper=picky", "trainer.precision=float32", "norm=none"]


def search(real_train: Train, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{SEARCHING}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return real_train(*SEARCH, *SMALL, "trainer.max_steps=4", "hydra.sweep.dir=out", *arguments, PYTHONPATH=path)


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["basic", pytest.param("pool", marks=pytest.mark.long)])
def test_search_goes_on_after_runs_without_a_score(real_train: Train, tmp_path: Path, launcher: str) -> None:
    result = search(real_train, f"hydra/launcher={launcher}")
    trials = [line for line in result.stdout.splitlines() if line.startswith(("trial", "best"))]
    first, *others = trials
    assert first.startswith("trial 0 scored 0.")
    assert others[:3] == ["trial 1 failed", first.replace("0 scored", "2 scored"), "trial 3 failed"], "a repeated trial is known"
    assert others[3].startswith("best of 2: ")
    assert result.returncode == 1, "the last run failed"
    assert "Traceback" not in result.stderr
    assert len(list(find_runs([tmp_path / "out"]))) == 3


@pytest.mark.long
def test_search_whose_runs_diverge_ends_with_0(real_train: Train) -> None:
    result = search(real_train, "hydra/launcher=basic", "hydra.sweeper.values=[0.1,1e30]")
    assert (result.returncode, "best of 1" in result.stdout) == (0, True), result.stderr


@pytest.mark.long
def test_plugin_that_raises_is_one_message(real_train: Train) -> None:
    result = search(real_train, "hydra/launcher=basic", "hydra.sweeper.values=[1e30]")
    assert result.returncode == 1
    assert "train: The plugin picky ended with ValueError: " in result.stderr
    assert "Traceback" not in result.stderr
