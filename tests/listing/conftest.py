"""Folders of runs that the tests of this folder share, and the command `train-runs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.listing import cli


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, and the texts on its two outputs."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[str]:
        """The lines of the table without its head."""
        return self.out.splitlines()[1:]


TrainRuns = Callable[..., Outcome]


@pytest.fixture
def train_runs(capsys: pytest.CaptureFixture[str]) -> TrainRuns:
    """Return a function that runs the command in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        try:
            code = cli.run([*map(str, arguments)])
        except SystemExit as error:  # of argparse
            code = int(error.code or 0)
        texts = capsys.readouterr()
        return Outcome(code, texts.out, texts.err)

    return run


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `outputs` in the current one: a sweep of two arms, a run that is done, and one that has failed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs"
    arms = {("norm=batch",): (0.8, 0.9), ("norm=none",): (0.5, 0.6, 0.7)}
    folder.mkdir()
    write_sweep(folder / "sweep", arms, without=1, records=2, layers=1)
    write_run(folder / "single", ["norm=layer", "optimizer.lr=0.1", "trainer.epochs=1"], 0.75, started=100, records=2, layers=1)
    write_run(folder / "broken", ["norm=group", "trainer.epochs=1"], None, "failed", reason="no memory", started=50, records=1)
    return folder
