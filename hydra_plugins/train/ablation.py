"""The sweeper `ablation` as Hydra discovers it. `train.sweep.sweeper` does the work and is imported only when a sweep starts."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class AblationSweeper(Sweeper):
    """A sweeper that crosses the arms of a design with seeds. `conf/config.yaml` documents the keys under `sweep`."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the sweep and its launcher. UsageError for a wrong key of either."""
        from train.command import as_typed
        from train.sweep.server_process import begin_imports

        begin_imports(as_typed(config.hydra.overrides.task))
        from train.sweep.sweeper import build_sweep

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._sweep = build_sweep(hydra_context.config_loader, launcher, config, self.params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; return the results of its jobs as Hydra's launchers return them."""
        return self._sweep.run(arguments)
