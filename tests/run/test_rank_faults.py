"""A run on several devices ends as a whole: with one of its processes, with its command, and on a signal."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Train
from tests.harness import COMMAND, SMALL, run_content
from tests.run.rank_processes import Command, records, started, wait_until
from train.store.run import read_run

LONG = [*SMALL, "trainer.devices=2", "trainer.epochs=1000", "trainer.record_every=1", "hydra.run.dir=run"]
ENDLESS = [*LONG, "trainer.max_steps=null"]


@pytest.mark.slow
@pytest.mark.parametrize("dead", [pytest.param("rank 0", marks=pytest.mark.long), "rank 1"])
def test_no_process_outlives_a_killed_rank(tmp_path: Path, dead: str) -> None:
    """Rank 0 is the command itself."""
    run = tmp_path / "run"
    with started(tmp_path, ENDLESS) as command:
        assert wait_until(lambda: records(run) > 3)
        (other,) = command.ranks()
        os.kill(command.process.pid if dead == "rank 0" else other, signal.SIGKILL)
        assert command.ended()
        output = command.output()
    assert read_run(run).state == "lost"
    if dead == "rank 1":
        assert command.process.returncode == 1
        assert "rank 1 of 2 was ended by SIGKILL (signal 9)" in output
        assert "Traceback" not in output


TORCHRUN = [
    *(str(COMMAND.with_name("torchrun")), "--nproc-per-node=2", "--master-port=0"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--no-python", str(COMMAND)),
]


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["trainer.devices=2"], ["trainer.devices=1"]])
def test_torchrun_starts_one_run(tmp_path: Path, arguments: list[str]) -> None:
    """Or none, where it starts another number of processes than the configuration says."""
    with started(tmp_path, [*SMALL, "hydra.run.dir=run", *arguments], TORCHRUN) as command:
        assert command.ended()
        output = command.output()
    if arguments == ["trainer.devices=2"]:
        assert command.process.returncode == 0, output
        assert read_run(tmp_path / "run").state == "done"
    else:
        assert "trainer.devices=1: torchrun has started 2 processes (WORLD_SIZE=2). Use trainer.devices=2" in output
        assert not (tmp_path / "run").exists()


ABORTS_AT_ITS_END = """
import atexit, os
from torch import nn

def norm():
    if os.environ["RANK"] == "1":
        atexit.register(os.abort)
    return nn.BatchNorm2d
"""


@pytest.mark.long
def test_end_of_the_interpreter_fails_no_rank_that_has_done_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C++ once aborted one there, in a hundred runs: "terminate called without an active exception"."""
    (tmp_path / "aborts.py").write_text(ABORTS_AT_ITS_END)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = [*SMALL, "trainer.devices=2", "norm=none", "norm._target_=aborts.norm", "trust=aborts", "hydra.run.dir=run"]
    with started(tmp_path, arguments, TORCHRUN) as command:
        assert command.ended()
        output = command.output()
    assert command.process.returncode == 0, output
    assert read_run(tmp_path / "run").state == "done"


@contextmanager
def started_on_two_machines(folders: Sequence[Path], arguments: Sequence[str]) -> Iterator[tuple[Command, Command]]:
    """Start a torchrun with one process in each of two folders, as on two machines that share no files."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    launcher = [str(COMMAND.with_name("torchrun")), "--nnodes=2", "--nproc-per-node=1", *where]
    first, second = ([*launcher, f"--node-rank={rank}", "--no-python", str(COMMAND)] for rank in range(2))
    for folder in folders:
        folder.mkdir()
    with started(folders[0], arguments, first) as leader, started(folders[1], arguments, second) as follower:
        yield leader, follower


@pytest.mark.long
def test_torchrun_on_two_machines_trains_as_on_one(train: Train, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    arguments = [*SMALL, "trainer.devices=2", "norm=batch", "regularization.dropout=0.1", "hydra.run.dir=run"]
    with started_on_two_machines(folders, arguments) as commands:
        assert all(command.ended() for command in commands)
        said = "".join(command.output() for command in commands)
    assert [command.process.returncode for command in commands] == [0, 0], said
    assert not (folders[1] / "run").exists()
    assert train(*arguments).returncode == 0
    assert run_content(folders[0] / "run") == run_content(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1])
def test_no_machine_goes_on_without_the_other(tmp_path: Path, lost: int) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    with started_on_two_machines(folders, ENDLESS) as commands:
        assert wait_until(lambda: records(folders[0] / "run") > 3)
        for pid in commands[lost].processes():
            os.kill(pid, signal.SIGKILL)
        assert commands[1 - lost].ended()
        assert commands[1 - lost].process.returncode != 0
    assert read_run(folders[0] / "run").state == "lost"


@pytest.mark.long
def test_no_process_outlives_a_command_killed_as_it_starts(tmp_path: Path) -> None:
    with started(tmp_path, ENDLESS) as command:
        assert wait_until(lambda: bool(command.ranks()))
        command.process.kill()
        assert command.ended()


@pytest.mark.long
@pytest.mark.parametrize("to_all", [False, pytest.param(True, marks=pytest.mark.long)])
def test_signal_ends_all_ranks_and_resume_is_bit_exact(train: Train, tmp_path: Path, to_all: bool) -> None:
    """A terminal and a batch system send a signal to all processes."""
    arguments = [*LONG, "trainer.max_steps=300", "norm=batch", "norm.sync=false", "regularization.dropout=0.1"]
    run = tmp_path / "run"
    with started(tmp_path, arguments) as command:
        assert wait_until(lambda: records(run) > 3)
        for pid in [*(command.ranks() if to_all else ()), command.process.pid]:
            os.kill(pid, signal.SIGTERM)
        assert command.ended()
        output = command.output()
    assert command.process.returncode == 128 + signal.SIGTERM, output
    assert read_run(run).state == "interrupted"
    refused = train("resume=run", "trainer.devices=1")
    assert refused.returncode == 2
    assert "trainer.devices: 2 -> 1" in refused.stderr
    resumed = train("resume=run")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert train(*arguments, "hydra.run.dir=whole").returncode == 0
    assert run_content(run) == run_content(tmp_path / "whole")
