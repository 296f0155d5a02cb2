"""A run on several devices ends as a whole: with one of its processes, with its command, and on a signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.harness import SMALL
from tests.run.rank_processes import records, started, wait_until
from train.store.run import read_run

ENDLESS = [
    *SMALL,
    "trainer.devices=2",
    "trainer.max_steps=null",
    "trainer.epochs=1000",
    "trainer.record_every=1",
    "hydra.run.dir=run",
]


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["rank 0", "rank 1"])
def test_no_process_outlives_a_killed_rank(tmp_path: Path, dead: str) -> None:
    """Rank 0 is the command itself."""
    run = tmp_path / "run"
    with started(tmp_path, ENDLESS) as command:
        assert wait_until(lambda: records(run) > 3)
        (other,) = command.ranks()
        os.kill(command.process.pid if dead == "rank 0" else other, signal.SIGKILL)
        assert command.ended()
        output = command.process.communicate()[0]
    assert read_run(run).state == "lost"
    if dead == "rank 1":
        assert command.process.returncode == 1
        assert "rank 1 of 2 was ended by SIGKILL (signal 9)" in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_no_process_outlives_a_command_killed_as_it_starts(tmp_path: Path) -> None:
    with started(tmp_path, ENDLESS) as command:
        assert wait_until(lambda: bool(command.ranks()))
        command.process.kill()
        assert command.ended()


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True])
def test_signal_ends_all_ranks_and_the_run_resumes(tmp_path: Path, to_all: bool) -> None:
    """A terminal and a batch system send a signal to all processes."""
    run = tmp_path / "run"
    with started(tmp_path, ENDLESS) as command:
        assert wait_until(lambda: records(run) > 3)
        for pid in [*(command.ranks() if to_all else ()), command.process.pid]:
            os.kill(pid, signal.SIGTERM)
        assert command.ended()
        output = command.process.communicate()[0]
    assert command.process.returncode == 128 + signal.SIGTERM, output
    stored = read_run(run)
    assert stored.state == "interrupted"
    assert list((run / "checkpoints").glob("step-*.pt"))
