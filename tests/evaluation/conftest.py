"""Runs of a second that the tests of this folder share, and the command `train-eval`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import SMALL, train_in_process
from train.evaluation import cli

CPU = ["trainer.device=cpu"]


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, and the texts on its two outputs."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done. Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_in_process(folder, [*SMALL, *CPU])
    return folder


@pytest.fixture
def train_eval(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs the command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        try:
            code = cli.run([*map(str, arguments)])
        except SystemExit as error:  # of argparse
            code = int(error.code or 0)
        texts = capsys.readouterr()
        return Outcome(code, texts.out, texts.err)

    return run
