"""The launcher `pool`, in the package that Hydra searches. It imports its implementation `train.sweep.pool` only for a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from train.sweep.fork_server import ForkServer
    from train.sweep.mps import Service
    from train.sweep.pool import LaunchRequest


class PoolLauncher(Launcher):
    """A launcher that runs each job in a fresh process, several at a time. Settings: `conf/hydra/launcher/pool.yaml`."""

    def __init__(
        self, devices: Any, jobs_per_device: Any, threads_per_job: Any, timeout_minutes: Any, retries: Any, mps: Any
    ) -> None:
        self._settings = (devices, jobs_per_device, threads_per_job, timeout_minutes, retries, mps)
        self._request: LaunchRequest | None = None
        self.fork_server: ForkServer | None = None
        """A fork server that the sweeper has started already, if any; reusing it saves the import."""
        self.needed_bytes: int | None = None
        """The GPU memory that a run needs, if the sweeper has estimated it."""
        self.mps: Service | None = None
        """NVIDIA's service for the next launch, if it was begun."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Validate the settings; UsageError for an invalid one."""
        from train.sweep.devices import parse_pool_settings
        from train.sweep.pool import LaunchRequest

        self._request = LaunchRequest(
            hydra_context.config_loader, config, import_path(task_function), parse_pool_settings(*self._settings)
        )

    def begin_mps(self, environment: Mapping[str, str], fork_server: ForkServer) -> None:
        """Begin NVIDIA's service for the first launch: its start takes seconds, in which the sweeper checks the arms.

        `environment`: variables by which a job sees its GPU.
        """
        from train.sweep.mps import Service

        self.mps = Service(environment, fork_server)
        fork_server.at_end(self.mps.ending.close)  # nothing is launched where all runs have ended

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from train.sweep.pool import launch

        assert self._request is not None
        request = replace(self._request, fork_server=self.fork_server, needed_bytes=self.needed_bytes, mps=self.mps)
        self.mps = None
        return launch(request, job_overrides, initial_job_idx)


def import_path(function: TaskFunction) -> str:
    """Return `module:function`, with the module name by which another process can import it."""
    module = function.__module__
    if module == "__main__" and (spec := sys.modules["__main__"].__spec__) is not None:
        module = spec.name
    return f"{module}:{function.__qualname__}"
