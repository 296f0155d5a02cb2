"""The jobs of one launch: composed shortly before they start, and reported to Hydra at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from train.run.job import chosen_options
from train.run.resume import user_overrides
from train.store.failure import RunRequest, requested_experiment
from train.sweep.devices import Slot
from train.sweep.fork_server import Worker
from train.sweep.progress import JobProgress, JobRow


@dataclass
class Job:
    """One run as the launcher starts it. `config` and `folder` are set by `compose_job`, the fields below when it starts."""

    index: int
    overrides: Sequence[str]
    row: JobRow
    config: DictConfig | None = None
    folder: Path | None = None
    worker: Worker | None = None
    slot: Slot | None = None
    progress: JobProgress | None = None
    deadline: float = math.inf
    kill_at: float = math.inf
    sent_signals: set[int] = field(default_factory=set)
    """Signals that the pool sent to the job."""
    timed_out: bool = False
    value: float = math.nan

    @property
    def run_request(self) -> RunRequest:
        assert self.config is not None
        choices = chosen_options(self.config.hydra.runtime.choices)
        return RunRequest(
            requested_experiment(_task_config(self.config)), user_overrides(self.config.hydra.overrides.task), choices
        )

    def as_job_return(self) -> JobReturn:
        """Return the job's result for Hydra. A failed job counts as completed: its folder holds the error."""
        result = JobReturn(overrides=list(self.overrides), status=JobStatus.COMPLETED, working_dir=str(Path.cwd()))
        result.return_value = self.value
        if self.config is not None:
            result.cfg = _task_config(self.config)
            result.hydra_cfg = OmegaConf.masked_copy(self.config, ["hydra"])
            result.task_name = self.config.hydra.job.name
        return result


def compose_job(job: Job, loader: ConfigLoader, master: DictConfig) -> None:
    """Compose the job's configuration and set its folder, as Hydra's launchers do.

    The sweep folders become literal paths, so that a resolver which draws a random name is called only once."""
    config = loader.load_sweep_config(master, list(job.overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = job.index
    hydra = HydraConfig.instance()
    previous, sweep_dir = hydra.cfg, Path(str(master.hydra.sweep.dir)).absolute()
    try:
        hydra.set_config(config)  # `${hydra:...}` reads it
        subdir = str(config.hydra.sweep.subdir)
    finally:
        hydra.cfg = previous
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(sweep_dir), subdir
    job.config, job.folder = config, sweep_dir / subdir
    job.row.folder = job.folder


def _task_config(config: DictConfig) -> DictConfig:
    """Return the configuration without the `hydra` node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
