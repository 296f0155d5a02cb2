"""One job of a sweep in its worker process: calls the task as Hydra's own launchers do."""

from __future__ import annotations

import importlib
import math
import pickle
import traceback
from dataclasses import dataclass, field

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from train.errors import RunError
from train.sinks import figures
from train.streams import say

CALL = f"{__name__}:run"
DRAW = f"{__name__}:draw"


def hydra_version_base() -> str | None:
    """Return the Hydra version whose behaviour this process requested, for its jobs."""
    base = version.getbase()
    return None if base is None else str(base)


@dataclass(frozen=True)
class JobRequest:
    """What a worker needs to run one job.

    `config`: composed, with literal sweep folders; `task`: the task function as `module:function`; `name`: the program's name;
    `version_base`: the Hydra version whose behaviour the program requested."""

    config: DictConfig
    task: str
    name: str
    version_base: str | None = field(default_factory=hydra_version_base)


def run(request: JobRequest) -> tuple[float, bytes]:
    """Run the job; return the value of its task, NaN when it has none, and the figures to `draw`, none when empty.

    The state of the run is in its folder.
    """
    with figures.deferred() as drawings:
        value = _run(request)
    return value, pickle.dumps(drawings) if drawings else b""


def draw(pickled: bytes) -> None:
    """Draw the figures of a run, in a process that never had its device."""
    from train.sinks.tensorboard import ImageFile

    for drawing in pickle.loads(pickled):
        drawing.draw(ImageFile(drawing.folder))


def _run(request: JobRequest) -> float:
    setup_globals()
    if request.version_base is not None:
        version.setbase(request.version_base)
    JobRuntime.instance().set("name", request.name)
    module, _, name = request.task.partition(":")
    task = getattr(importlib.import_module(module), name)
    context = HydraContext(config_loader=None, callbacks=Callbacks(request.config))  # pyright: ignore[reportArgumentType]
    try:
        job_return = run_job(task, request.config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    except KeyboardInterrupt:
        return math.nan  # the controller sent the signal, or reads it from the run folder
    if job_return.status is JobStatus.FAILED:
        error = job_return._return_value
        is_traced = isinstance(error, BaseException) and not isinstance(error, RunError)
        say("".join(traceback.format_exception(error)) if is_traced else str(error), error=True)
        return math.nan
    value = job_return.return_value
    return float(value) if isinstance(value, int | float) else math.nan
