"""One job of a sweep, in the child that was forked for it: what Hydra's launchers do around the task."""

from __future__ import annotations

import importlib
import math
import sys
import traceback
from dataclasses import dataclass

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

CALL = f"{__name__}:run"


@dataclass(frozen=True)
class JobRequest:
    """`config`: composed, with literal sweep folders; `task`: the task function as `module:function`; `name`: of the program;
    `version_base`: the Hydra version whose behaviour the program asked for."""

    config: DictConfig
    task: str
    name: str
    version_base: str | None = None


def run(order: JobRequest) -> float:
    """What the task returned, NaN where there is nothing to return. What became of the run is said in its folder."""
    setup_globals()
    if order.version_base is not None:
        version.setbase(order.version_base)
    JobRuntime.instance().set("name", order.name)
    module, _, name = order.task.partition(":")
    task = getattr(importlib.import_module(module), name)
    context = HydraContext(config_loader=None, callbacks=Callbacks(order.config))  # pyright: ignore[reportArgumentType]
    try:
        ended = run_job(task, order.config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    except KeyboardInterrupt:
        return math.nan  # a signal, which the controller has sent or hears of from the run folder
    if ended.status is JobStatus.FAILED:
        error = ended._return_value
        traceback.print_exception(error) if isinstance(error, BaseException) else print(error, file=sys.stderr)
        return math.nan
    value = ended.return_value
    return float(value) if isinstance(value, int | float) else math.nan
