"""A sweep on a real Slurm of two nodes: shared out, and made to the end when one of them is lost, or cut off from Slurm."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.nodes import NODES, SWEEP, end, in_training
from tests.sweep.slurm import (
    PATIENCE_S,
    Slurm,
    ask,
    contents,
    finish,
    queue,
    release,
    repeat,
    runs_of,
    slurm_of,
    undisturbed_sweep,
)
from train.store.run import Run

pytestmark = pytest.mark.long


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Slurm]:
    with slurm_of(tmp_path / "slurm", NODES) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(python_with: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Any]:
    return undisturbed_sweep(tmp_path_factory.mktemp("undisturbed") / "sweep", python_with("submitit"), SWEEP)


@pytest.fixture
def python(python_with: Callable[[str], str]) -> str:
    return python_with("submitit")


def train_on_both(python: str, folder: Path, cluster: Slurm) -> Run:
    """Start the sweep; return the run of the second node once both nodes train."""
    said, code = finish(python, folder, cluster.variables, sweep=SWEEP)
    assert code == 0, said
    deadline = time.monotonic() + PATIENCE_S
    while (found := in_training(folder)).keys() != set(NODES):
        assert queue(cluster.variables), (found, said)
        assert time.monotonic() < deadline, (found, ask(cluster.variables, "squeue", "--me"))
        time.sleep(0.05)
    return found[NODES[1]]


def wait_until_given_up(cluster: Slurm) -> None:
    """Wait until Slurm has noticed that the second node does not answer, and the jobs have left the queue."""
    slurm, deadline = cluster.variables, time.monotonic() + PATIENCE_S
    while "down" not in ask(slurm, "sinfo", "--noheader", f"--nodes={NODES[1]}", "--format=%T"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while queue(slurm):
        assert time.monotonic() < deadline, queue(slurm)
        release(slurm)
        time.sleep(0.5)


def test_sweep_goes_on_when_a_node_is_lost(
    python: str, cluster: Slurm, undisturbed: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    """All its processes end at once, as without power. Slurm makes its job on the other node, where the run resumes."""
    folder = tmp_path / "sweep"
    lost = train_on_both(python, folder, cluster)
    end(cluster.nodes[NODES[1]])
    wait_until_given_up(cluster)
    last = repeat(python, folder, cluster.variables, sweep=SWEEP)
    assert "sweep  2 runs: 2 done" in last, last
    assert "submitted" not in last
    moved = runs_of(folder)[lost.overrides].status
    assert ([attempt["host"] for attempt in moved["resumed"]], moved["host"]) == ([NODES[1]], NODES[0])
    assert contents(folder) == undisturbed
    page = (folder / "report.md").read_text()
    assert re.search(r"\*\*Machine:\*\* node\d.*\(1 run\), node\d.*\(1 run\)", page)
    assert "node1 then node0" in page


def test_run_of_a_node_that_is_cut_off_is_not_made_twice(
    python: str, cluster: Slurm, undisturbed: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    """Slurm takes the job to the other node while the run's process, which it cannot reach, still has the folder."""
    folder = tmp_path / "sweep"
    cut_off = train_on_both(python, folder, cluster)
    cluster.nodes[NODES[1]].kill()
    os.kill(cut_off.status["pid"], signal.SIGSTOP)
    wait_until_given_up(cluster)
    logs = "".join(log.read_text() for log in (folder / ".submitit").rglob("*_log.out"))
    assert f"another process ({cut_off.status['pid']} on {NODES[1]}, since" in logs
    os.kill(cut_off.status["pid"], signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE_S
    while any(run.state == "running" for run in runs_of(folder).values()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    last = repeat(python, folder, cluster.variables, sweep=SWEEP)
    assert "sweep  2 runs: 2 done" in last, last
    assert "submitted" not in last
    status = runs_of(folder)[cut_off.overrides].status
    assert (status["host"], status.get("resumed")) == (NODES[1], None)
    assert contents(folder) == undisturbed
