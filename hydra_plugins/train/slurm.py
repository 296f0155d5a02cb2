"""The launcher `slurm`, in the package that Hydra searches. It imports `train.sweep.array` only for a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.train.pool import import_path


class SlurmLauncher(Launcher):
    """A launcher that submits all jobs as one job array of Slurm's. Settings: `conf/hydra/launcher/slurm.yaml`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}
        self.ends_early = not self._settings.get("wait")
        """Whether `launch` returns before its jobs have ended."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings; UsageError for an invalid one, or where submitit is not installed."""
        from train.sweep.array import check

        check(self._settings)
        self._context = hydra_context.config_loader, config, import_path(task_function)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from train.sweep.array import submit

        return submit(*self._context, self._settings, job_overrides, initial_job_idx)
