"""The commands that a run prints do what they say when they are pasted: odd folders, parts of one's own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import SMALL
from tests.test_command import pasted
from train.store.run import read_run

Train = Callable[..., "subprocess.CompletedProcess[str]"]
FOLDER = "f8/lr=0.1, it's (a)"
OWN = "from torch import nn\n\ndef own(scale: float = 1.0):\n    return lambda channels: nn.BatchNorm2d(channels)\n"
OWN_PARTS = ["--config-dir", "my conf", "trust=mine"]


@pytest.fixture
def own_train(train: Train, tmp_path: Path) -> Train:
    """Return the command `train` in a folder with a norm of the user's own."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "my conf" / "norm").mkdir(parents=True)
    (tmp_path / "my conf" / "norm" / "own.yaml").write_text("_target_: mine.own\nscale: 1.0\n")
    return lambda *arguments, **variables: train(*arguments, PYTHONPATH=str(tmp_path), **variables)


def lines_of(text: str, label: str) -> list[str]:
    return [line.removeprefix(label) for line in text.splitlines() if line.startswith(label)]


def test_commands_of_an_interrupted_run(own_train: Train, tmp_path: Path) -> None:
    arguments = ["norm._target_=tests.run.saboteur.norm", "~norm.scale", "trainer.max_steps=4", "trust=[mine,tests]"]
    run = [*SMALL, *OWN_PARTS[:2], "norm=own", *arguments, f'hydra.run.dir="{FOLDER}"']
    interrupted = own_train(*run, SABOTAGE="train:2:SIGHUP")
    assert interrupted.returncode == 129, interrupted.stderr
    (resume,) = lines_of(interrupted.stdout, "to resume: ")
    refused = own_train(*run)
    (same,) = re.findall(r"To resume an incomplete run: (train .*)", refused.stderr)
    assert (refused.returncode, same) == (2, resume)
    flag, conf, *others = pasted(resume)
    for order in ([*others, flag, conf], [others[0], flag, conf, others[1]]):
        assert "steps are fewer than" in own_train(*order, "trainer.max_steps=1").stderr, "it composes in every order"
    resumed = own_train(*pasted(resume))
    assert resumed.returncode == 0, resumed.stderr
    assert read_run(tmp_path / FOLDER).state == "done"
