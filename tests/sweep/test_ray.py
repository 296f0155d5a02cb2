"""A sweep on a real Ray: its workers and its command are killed at random, and its results are those of the pool."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness import SMALL
from tests.run.rank_processes import records
from tests.sweep.nodes import RAY_VARIABLES
from tests.sweep.slurm import contents, runs_of, table
from tests.sweep.test_pool import AWKWARD
from tests.sweep.test_pool import SMALL as AWKWARD_RUN
from train.store.run import find_runs, read_run

ROOT = Path(__file__).resolve().parents[2]
MARK = "TRAIN_TEST_RAY"
PATIENCE_S = 240
ON_RAY = ["hydra/launcher=ray_cluster", "+hydra.launcher.ray.init.num_cpus=2"]
SWEEP = [*SMALL, "trainer.epochs=20", "trainer.max_steps=null", "checkpoint.every_steps=5", "trainer.record_every=1"]
SWEEP += ["trainer.device=cpu", "norm=none,batch", "seed=range(2)"]
pytestmark = [pytest.mark.long, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")]


class Sweep:
    """A sweep in a process group of its own; `mark` is in the environment of all its processes, those of its Ray included."""

    def __init__(self, python: str, folder: Path, *overrides: str) -> None:
        self.folder, self.mark = folder / "sweep", uuid.uuid4().hex
        path = f"{ROOT}{os.pathsep}{AWKWARD}"
        variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **RAY_VARIABLES, MARK: self.mark}
        variables["AWKWARD_MARK"] = str(folder / "mark")
        command = [python, "-m", "train.cli", "-m", "--config-dir", str(AWKWARD), *overrides, f"hydra.sweep.dir={self.folder}"]
        self.log = folder / f"{self.mark}.txt"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | variables, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ended(self) -> str:
        """Wait for the end of the command, and return what it has printed."""
        self.wait_until(lambda: self.process.poll() is not None)
        return self.said

    def processes(self) -> list[int]:
        """Return the living processes of the sweep."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def workers(self) -> list[int]:
        """Return the processes that train now."""
        runs = [read_run(path) for path in find_runs([self.folder])]
        return [int(run.status["pid"]) for run in runs if run.state == "running"]

    def wait_until(self, condition: Callable[[], Any], alive: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.said
            assert not alive or self.process.poll() is None or condition(), self.said
            time.sleep(0.1)

    def wait_for_records(self, count: int) -> None:
        """Wait until a run has `count` records more than all had when this was called."""
        before = self.records()
        self.wait_until(lambda: any(number >= before.get(path, 0) + count for path, number in self.records().items()))

    def records(self) -> dict[Path, int]:
        return {path: records(path) for path in find_runs([self.folder])}


@contextmanager
def swept(python: str, folder: Path, *overrides: str) -> Iterator[Sweep]:
    """Start a sweep; at the end kill what is left of it."""
    sweep = Sweep(python, folder, *overrides)
    try:
        yield sweep
    finally:
        for pid in sweep.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sweep.process.wait()


@pytest.fixture(scope="module")
def python(python_with: Callable[[str], str]) -> str:
    return python_with("ray")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, python: str) -> tuple[Any, Any]:
    with swept(python, tmp_path_factory.mktemp("undisturbed"), *SWEEP) as sweep:
        assert "4 runs: 4 done" in sweep.ended()
    return contents(sweep.folder), table(sweep.folder)


@pytest.mark.parametrize(("seed", "number"), [(0, signal.SIGKILL), (1, signal.SIGINT)])
def test_sweep_survives_random_kills(
    seed: int, number: signal.Signals, python: str, undisturbed: tuple[Any, Any], tmp_path: Path
) -> None:
    """Workers that train are killed, then the command, or Ctrl-C stops it: nothing trains on without it."""
    draw = random.Random(seed)
    with swept(python, tmp_path, *SWEEP, *ON_RAY) as sweep:
        for _ in range(2):
            sweep.wait_for_records(draw.randrange(5, 30))
            sweep.wait_until(sweep.workers)
            os.kill(draw.choice(sweep.workers()), signal.SIGKILL)
        sweep.wait_for_records(draw.randrange(5, 30))
        if number == signal.SIGKILL:
            sweep.process.kill()
        else:  # from a terminal, to the whole process group
            os.killpg(sweep.process.pid, number)
        said = sweep.ended()
        sweep.wait_until(lambda: not sweep.processes(), alive=False)
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert sweep.process.returncode == 128 + signal.SIGINT, said
        assert "stopping: running jobs save and exit" in said
        assert "interrupted" in {run.state for run in runs_of(sweep.folder).values()} <= {"done", "interrupted"}
    with swept(python, tmp_path, *SWEEP, *ON_RAY) as sweep:
        said = sweep.ended()
    assert "resume from a checkpoint" in said
    assert "sweep  4 runs: 4 done" in said
    assert (contents(sweep.folder), table(sweep.folder)) == undisturbed


def test_run_whose_process_dies_always_is_one_failed_row(python: str, tmp_path: Path) -> None:
    run = [override for override in AWKWARD_RUN if not override.startswith("hydra.launcher")]
    settings = [*ON_RAY, "model.how=dies,dies_once,diverges,fails", "hydra.launcher.ray.remote.max_retries=1"]
    with swept(python, tmp_path, *run, *settings) as sweep:
        said = sweep.ended()
    assert sweep.process.returncode == 1
    assert "sweep  4 runs: 1 done, 1 diverged, 2 failed" in said
    assert "model.how=dies_once: its process was lost; Ray has started another" in said
    found = {run.config["model"]["how"]: run for run in runs_of(sweep.folder).values()}
    assert found["dies"].state == "failed"
    assert found["dies"].reason.startswith("its process was killed; Ray has made it 2 times")
    assert "hydra.launcher.ray.remote.max_retries=1" in said
    assert found["fails"].reason == "ValueError: this model fails on purpose"
    assert "Traceback" not in said


def test_run_that_another_process_still_makes_is_not_made_twice(python: str, tmp_path: Path) -> None:
    """As on a node that is cut off: Ray gives up its process and makes the run again."""
    run = [override for override in AWKWARD_RUN if not override.startswith("hydra.launcher")]
    with swept(python, tmp_path, *run, *ON_RAY, "model.how=is_cut_off,fine") as sweep:
        said = sweep.ended()
    assert sweep.process.returncode == 1
    assert "sweep  2 runs: 1 done, 1 still running in another process" in said
    assert "is using this run folder" in " ".join(said.split())
    assert "its process was killed" not in said
    assert "Traceback" not in said
    assert {run.state for run in runs_of(sweep.folder).values()} == {"done", "running"}


def test_screen_is_that_of_a_sweep_on_this_machine(python: str, tmp_path: Path) -> None:
    """Each run, which has half a CPU and two devices here, is one line as it starts and one as it ends."""
    settings = [*ON_RAY, "hydra.launcher.ray.remote.num_cpus=0.5", "trainer.devices=2"]
    with swept(python, tmp_path, *SMALL, "trainer.device=cpu", "norm=none,batch", *settings) as sweep:
        said = sweep.ended()
    assert sweep.process.returncode == 0, said
    body = said.partition("2 runs, 4 at a time on Ray (1 node), 0.5 CPUs each\n")[2].partition("\n\n")[0].splitlines()
    assert body[0] == f"folder: {sweep.folder}"
    assert sorted(line.partition("] ")[2].partition(" after ")[0] for line in body[1:]) == [
        *("done norm=batch", "done norm=none (baseline)", "running norm=batch (cpu)", "running norm=none (baseline) (cpu)")
    ]
    assert {run.status["devices"] for run in runs_of(sweep.folder).values()} == {2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=4"], "hydra.launcher.ray.remote: a run asks for num_cpus=4 and no node has more than 2"),
        (["hydra.launcher.ray.remote.num_gpus=some"], "hydra.launcher.ray.remote.num_gpus=some: use auto, or a number"),
        (["+hydra.launcher.ray.remote.nocpus=1"], "hydra.launcher.ray.remote: Ray does not take these options"),
    ],
)
def test_what_ray_cannot_do_is_one_message(overrides: list[str], message: str, python: str, tmp_path: Path) -> None:
    with swept(python, tmp_path, *SMALL, "trainer.device=cpu", "norm=none,batch", *ON_RAY, *overrides) as sweep:
        said = " ".join(sweep.ended().split())
    assert sweep.process.returncode == 2, said
    assert message in said
    assert "Traceback" not in said
