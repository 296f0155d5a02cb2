"""One run as a task of Ray's, in the worker process that Ray starts for it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from train.errors import RunError
from train.run.job import known_result
from train.store.files import CONSOLE_LOG
from train.store.run import read_status
from train.store.run_folder import RunFolder
from train.sweep import job as job_call
from train.sweep.worker import redirect


class StoppedError(RunError):
    """A signal that the sweep did not send stopped a run, as before a node is taken away. Ray makes the run again."""


@dataclass(frozen=True)
class TaskRequest:
    """What a worker of Ray needs to make a run. `place`: the working directory of the command, where a node has it."""

    job: job_call.JobRequest
    folder: Path
    place: Path


def make_run(request: TaskRequest) -> float:
    """Make the run, or resume it where an attempt before this one has left it; return its value, NaN when it has none.

    An attempt that was lost after its run had ended leaves nothing to do. StoppedError when a signal stopped the run.
    """
    if request.place.is_dir():
        os.chdir(request.place)
    request.folder.mkdir(parents=True, exist_ok=True)
    redirect(str(request.folder / CONSOLE_LOG))
    config = OmegaConf.masked_copy(request.job.config, [str(key) for key in request.job.config if key != "hydra"])
    if (known := known_result(RunFolder(request.folder), config)) is not None:
        return known.objective
    value, figures = job_call.run(request.job)
    if figures:
        job_call.draw(figures)
    if math.isnan(value) and (status := read_status(request.folder)).get("status") == "interrupted":
        raise StoppedError(str(status.get("reason") or "interrupted"))
    return value
