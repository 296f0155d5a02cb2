"""The launcher `pool`, where Hydra finds it. The work is in `train.sweep.pool`, imported only when a sweep starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from train.sweep.fork_server import ForkServer
    from train.sweep.pool import LaunchRequest


class PoolLauncher(Launcher):
    """Each job in a fresh process, several at a time. `conf/hydra/launcher/pool.yaml` explains the settings."""

    def __init__(self, devices: Any, jobs_per_device: Any, threads_per_job: Any, timeout_minutes: Any, retries: Any) -> None:
        self._settings = (devices, jobs_per_device, threads_per_job, timeout_minutes, retries)
        self._request: LaunchRequest | None = None
        self.fork_server: ForkServer | None = None
        """One that runs already, where the sweeper has one: it saves the import."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """UsageError for a setting that makes no sense."""
        from train.sweep.devices import parse_pool_settings
        from train.sweep.pool import LaunchRequest

        self._request = LaunchRequest(
            hydra_context.config_loader, config, _name(task_function), parse_pool_settings(*self._settings)
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from train.sweep.pool import launch

        assert self._request is not None
        return launch(replace(self._request, fork_server=self.fork_server), job_overrides, initial_job_idx)


def _name(function: TaskFunction) -> str:
    """As `module:function`; the module under the name by which another process can import it."""
    module = function.__module__
    if module == "__main__" and (spec := sys.modules["__main__"].__spec__) is not None:
        module = spec.name
    return f"{module}:{function.__qualname__}"
