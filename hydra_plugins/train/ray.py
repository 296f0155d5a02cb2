"""The launcher `ray_cluster`, in the package that Hydra searches. It imports `train.sweep.ray_tasks` only for a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.train.pool import import_path


class RayTaskLauncher(Launcher):
    """A launcher that makes each job a task of Ray's. Settings: `conf/hydra/launcher/ray_cluster.yaml`."""

    def __init__(self, ray: Any) -> None:
        self._settings: Any = OmegaConf.to_container(ray, resolve=True) if OmegaConf.is_config(ray) else ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings; UsageError for an invalid one, or where Ray is not installed."""
        from train.sweep.ray_cluster import parse_ray_settings

        self._context = hydra_context.config_loader, config, import_path(task_function), parse_ray_settings(self._settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from train.sweep.ray_tasks import launch

        return launch(*self._context, job_overrides, initial_job_idx)
