"""The figures of a sweep's runs, which other processes draw, and what becomes of the pool's slots meanwhile."""

from __future__ import annotations

import base64
import pickle
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness import SMALL as UNOBSERVED
from train.sinks.figures import Drawing, Figure
from train.store.run import find_runs, read_run
from train.sweep.devices import Allocation, Slot
from train.sweep.drawing import LIMIT_S, Drawings
from train.sweep.fork_server import ForkServer, Worker
from train.sweep.jobs import Job
from train.sweep.progress import JobRow

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""
CPU = Allocation((Slot("cpu"),), 1)
GPU = Allocation((Slot("cuda:0", {"CUDA_VISIBLE_DEVICES": "0"}),), 1)


@pytest.mark.slow
def test_runs_of_a_sweep_have_the_figures_of_a_single_run(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    options = [*UNOBSERVED, "observe=basic", "observe.every=1", "trainer.device=cpu"]
    for command in (["-m", "seed=0,1", "hydra.sweep.dir=sweep"], ["seed=0", "hydra.run.dir=alone"]):
        result = train(*command, *options)
        assert result.returncode == 0, result.stdout + result.stderr
    (alone,) = [folder for folder in (tmp_path / "alone", *tmp_path.glob("alone/*")) if (folder / "status.json").exists()]
    expected = contents(alone)
    assert len(expected[0]) > 2
    folders = list(find_runs([tmp_path / "sweep"]))
    assert len(folders) == 2
    for folder in folders:
        assert read_run(folder).state == "done"
        assert contents(folder) == expected


def contents(folder: Path) -> tuple[list[str], list[tuple[str, list[int]]], list[str]]:
    """Return the names of the figures, the steps of TensorBoard's images by tag, and the tags of its scalars."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    images = [(tag, [event.step for event in events.Images(tag)]) for tag in sorted(events.Tags()["images"])]
    return sorted(path.name for path in (folder / "figures").iterdir()), images, sorted(events.Tags()["scalars"])


def a_job(folder: Path) -> Job:
    folder.mkdir()
    return Job(0, [], JobRow(1, "seed=0"), folder=folder, slot=CPU.slots[0])


def pickled(folder: Path, draw: Callable[[], bytes]) -> bytes:
    return pickle.dumps([Drawing(folder, [Figure("heatmap/a", 3, draw)])])


def ended(fork_server: ForkServer) -> Worker:
    (worker,) = fork_server.wait(60)
    return worker


def test_drawing_occupies_a_slot_of_a_cpu_and_none_of_a_gpu(tmp_path: Path, fork_server: ForkServer) -> None:
    for allocation, slot in ((CPU, CPU.slots[0]), (GPU, None)):
        said: list[str] = []
        drawings = Drawings(fork_server, allocation, said.append)
        job = a_job(tmp_path / str(allocation.gpus))
        assert drawings.start(job, pickled(job.folder or tmp_path, partial(bytes, 4))) == (slot is not None)
        assert list(drawings.workers) == fork_server.workers
        assert drawings.finish(ended(fork_server)) is slot
        assert not drawings.workers
        assert "1: seed=0: its figures were not drawn" in "".join(said), "four zeros are no image"


def test_job_without_figures_starts_no_process(tmp_path: Path, fork_server: ForkServer) -> None:
    drawings = Drawings(fork_server, CPU, print)
    assert not drawings.start(a_job(tmp_path / "run"), b"")
    assert not fork_server.workers


def test_drawing_that_takes_too_long_is_killed(tmp_path: Path, fork_server: ForkServer) -> None:
    said: list[str] = []
    drawings = Drawings(fork_server, CPU, said.append, clock=lambda: 100.0)
    job = a_job(tmp_path / "run")
    assert drawings.start(job, pickled(tmp_path / "run", partial(time.sleep, 600)))  # pyright: ignore[reportArgumentType]
    drawings.kill(100.0 + LIMIT_S - 1)
    assert not fork_server.wait(0.2)
    drawings.kill(100.0 + LIMIT_S)
    assert drawings.finish(ended(fork_server)) is job.slot
    assert said


def test_drawings_are_completed_whoever_waits_for_their_processes(tmp_path: Path, fork_server: ForkServer) -> None:
    said: list[str] = []
    drawings = Drawings(fork_server, CPU, said.append)
    for name, failing in (("first", True), ("second", False)):
        job = a_job(tmp_path / name)
        drawings.start(job, pickled(tmp_path / name, partial(bytes, 4) if failing else partial(base64.b64decode, DOT)))
        if failing:
            ended(fork_server)
    drawings.complete()
    assert not drawings.workers
    assert not fork_server.workers
    assert len(said) == 1, said


def test_drawings_that_take_too_long_end_the_wait(tmp_path: Path, fork_server: ForkServer) -> None:
    said: list[str] = []
    drawings = Drawings(fork_server, CPU, said.append, clock=chain([100.0], repeat(100.0 + LIMIT_S)).__next__)
    assert drawings.start(a_job(tmp_path / "run"), pickled(tmp_path / "run", partial(time.sleep, 600)))  # pyright: ignore[reportArgumentType]
    drawings.complete()
    assert not fork_server.workers
    assert "its figures were not drawn" in "".join(said)
