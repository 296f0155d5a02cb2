"""Contestants that are single runs in workers of the fork server, as in a sweep, whose time is split into parts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from train import cli
from train.errors import RunError
from train.store.files import CONSOLE_LOG, SUMMARY_FILE
from train.store.run import read_run
from train.sweep import job as job_call
from train.sweep.compose import Compositions
from train.sweep.fork_server import ForkServer
from train.sweep.jobs import Job, compose_job
from train.sweep.progress import JobRow

from .windows import Seconds

LENGTHS = (0, 20, 200)
PARTS = {
    "steps": "train steps",
    "beyond": "everything else in the worker",
    "around": "of that: before the run has its folder, and after its result",
    "inside": "of that: in the run: traces, theory, sinks, evaluation, results",
    "composing": "composing the configuration, by the controller meanwhile",
    "figures": "drawing, by another process afterwards",
}


class SingleRun:
    """A contestant that is one run of some steps in a worker."""

    def __init__(self, steps: int, overrides: Sequence[str], folder: Path, fork_server: ForkServer) -> None:
        self.name = f"run_{steps}"
        self.detail = f"a run of {steps} steps" if steps else "a run of no step, which is observed and evaluated"
        length = [f"trainer.max_steps={steps}"] if steps else ["trainer.epochs=0", "trainer.max_steps=null"]
        self.overrides = [*overrides, *length]
        self.folder, self.fork_server, self.numbers = folder, fork_server, count()

    def window(self, steps: int) -> Callable[[], Seconds | None]:
        return self.run if steps else lambda: None

    def run(self) -> Seconds:
        """Compose, run and draw, one after the other; return the seconds of each of PARTS. RunError when the run fails."""
        started = time.perf_counter()
        job = self.compose(next(self.numbers))
        assert job.folder is not None
        composed = time.perf_counter()
        request = job_call.JobRequest(job.config, "train.cli:task", "train", "1.3")  # pyright: ignore[reportArgumentType]
        _, figures = self.call(job_call.CALL, request, job.folder)
        ended = time.perf_counter()
        if figures:
            self.call(job_call.DRAW, figures, job.folder)
        run, summary = read_run(job.folder), json.loads((job.folder / SUMMARY_FILE).read_text())
        rate = summary["images_per_s"]
        steps = summary["steps"] * run.config["trainer"]["batch_size"] / rate if rate else 0.0
        wall = float(run.status["wall_s"])
        return {
            "steps": steps,
            "beyond": ended - composed - steps,
            "around": ended - composed - wall,
            "inside": wall - steps,
            "composing": composed - started,
            "figures": time.perf_counter() - ended,
        }

    def compose(self, number: int) -> Job:
        job = Job(number, self.overrides, JobRow(number + 1, self.name))
        with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
            loader = GlobalHydra.instance().config_loader()
            where = [f"hydra.sweep.dir={self.folder}", f"hydra.sweep.subdir={self.name}-{number}"]
            master = loader.load_configuration("config", where, RunMode.MULTIRUN)
            compose_job(job, Compositions(loader, master), self.folder.absolute())
        return job

    def call(self, call: str, argument: object, folder: Path) -> tuple[float, bytes]:
        self.fork_server.start(call, argument, folder / CONSOLE_LOG)
        (worker,) = self.fork_server.wait()
        if worker.exit_code or (call == job_call.CALL and read_run(folder).state != "done"):
            raise RunError(f"{self.name}: {(folder / CONSOLE_LOG).read_text()[-2000:]}")
        return worker.value

    def close(self) -> None: ...


def warm_fork_server(overrides: Sequence[str], folder: Path) -> ForkServer:
    """Return a fork server that has imported everything: a run of no step has ended in a worker of it."""
    cli.register_resolvers()
    fork_server = ForkServer(torch.get_num_threads())
    SingleRun(0, overrides, folder / "first", fork_server).run()
    return fork_server


def contestants(overrides: Sequence[str], folder: Path, fork_server: ForkServer) -> Iterator[tuple[str, Callable[[], SingleRun]]]:
    """Yield names and factories of the contestants."""
    for steps in LENGTHS:
        yield f"run_{steps}", partial(SingleRun, steps, overrides, folder, fork_server)
