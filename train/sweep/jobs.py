"""The jobs of one launch: composed when their turn comes near, and what Hydra is told of each in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from train.run.failure import RunRequest, requested_experiment
from train.run.job import chosen_options
from train.run.resume import user_overrides
from train.sweep.devices import Slot
from train.sweep.fork_server import Worker
from train.sweep.progress import JobProgress, JobRow

CONSOLE_LOG = "console.log"
"""In the run folder: what the job printed, and its traceback."""


@dataclass
class Job:
    """`config` and `folder`: from its composition on; the rest: while it runs."""

    index: int
    overrides: Sequence[str]
    row: JobRow
    config: DictConfig | None = None
    folder: Path | None = None
    child: Worker | None = None
    slot: Slot | None = None
    progress: JobProgress | None = None
    deadline: float = math.inf
    killed_at: float = math.inf
    sent: set[int] = field(default_factory=set)
    """Signals that came from here."""
    timed_out: bool = False
    value: float = math.nan

    @property
    def run_request(self) -> RunRequest:
        assert self.config is not None
        choices = chosen_options(self.config.hydra.runtime.choices)
        return RunRequest(requested_experiment(_task(self.config)), user_overrides(self.config.hydra.overrides.task), choices)

    def as_job_return(self) -> JobReturn:
        """What a launcher returns. A failed job is no exception: its folder says what happened, and others went on."""
        result = JobReturn(overrides=list(self.overrides), status=JobStatus.COMPLETED, working_dir=str(Path.cwd()))
        result.return_value = self.value
        if self.config is not None:
            result.cfg = _task(self.config)
            result.hydra_cfg = OmegaConf.masked_copy(self.config, ["hydra"])
            result.task_name = self.config.hydra.job.name
        return result


def compose_job(job: Job, loader: ConfigLoader, master: DictConfig) -> None:
    """Give the job its configuration and folder, as Hydra's launchers do; its place in the sweep is then a literal path, so that
    resolvers which draw a name are asked once."""
    config = loader.load_sweep_config(master, list(job.overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = job.index
    hydra = HydraConfig.instance()
    before, top = hydra.cfg, Path(str(master.hydra.sweep.dir)).absolute()
    try:
        hydra.set_config(config)  # what `${hydra:...}` reads
        subdir = str(config.hydra.sweep.subdir)
    finally:
        hydra.cfg = before
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(top), subdir
    job.config, job.folder = config, top / subdir
    job.row.folder = job.folder


def needs_torchvision(config: DictConfig) -> bool:
    """Whether its parts come from there; the import is worth being made once for all jobs."""
    return any("torchvision" in target for target in _targets(OmegaConf.to_container(config)))


def _task(config: DictConfig) -> DictConfig:
    """Without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _targets(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [str(content["_target_"])] if "_target_" in content else []
        return own + [target for value in content.values() for target in _targets(value)]
    return []
