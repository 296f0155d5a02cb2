"""A Ray cluster, or a Ray that is started here: how it is reached, and what a run asks of it. Imports no torch."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from train.errors import UsageError
from train.run.signals import HELD_SIGNALS
from train.store.overrides import key_of
from train.sweep.devices import devices_per_job
from train.text import plural

LAUNCHER = "hydra.launcher.ray"
HERE = "local"
"""The address of a Ray that `ray.init` starts itself, and that ends with this process."""
LEAST_STORE_BYTES = 75 * 2**20
"""Ray's least size of its object store, which is a third of the memory by default. A run passes its settings through it."""
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}


@dataclass(frozen=True)
class RaySettings:
    """The validated settings of the launcher: arguments of `ray.init`, and options of each task."""

    init: Mapping[str, Any]
    remote: Mapping[str, Any]

    @property
    def is_here(self) -> bool:
        """Whether Ray is started for this sweep."""
        return self.init.get("address") == HERE

    @property
    def retries(self) -> int:
        return self.remote["max_retries"]


def parse_ray_settings(settings: Mapping[str, Any]) -> RaySettings:
    """Validate the settings `hydra.launcher.ray`. UsageError names the key and the remedy, or that Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("hydra/launcher=ray_cluster: Ray is not installed. pip install ray")
    init, remote = dict(settings["init"] or {}), dict(settings["remote"] or {})
    for key in RESOURCES:
        value = remote.setdefault(key, "auto")
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise UsageError(f"{LAUNCHER}.remote.{key}={value}: use auto, or a number of at least 0.")
    retries = remote.setdefault("max_retries", 3)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < -1:
        raise UsageError(f"{LAUNCHER}.remote.max_retries={retries}: use a whole number, or -1 for no limit.")
    refuse_options({**remote, **dict.fromkeys(RESOURCES, 1)})
    return RaySettings(init, remote)


def refuse_options(remote: Mapping[str, Any]) -> None:
    """Raise UsageError when Ray does not take these options of a task, with its words."""
    import ray  # pyright: ignore[reportMissingImports]

    try:
        ray.remote(**remote)(refuse_options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{LAUNCHER}.remote: Ray does not take these options: {' '.join(str(error).split())}") from None


def connect(settings: RaySettings) -> None:
    """Connect to the cluster, or start Ray here, unless an earlier stage of the sweep has. UsageError when that fails."""
    import ray  # pyright: ignore[reportMissingImports]

    if ray.is_initialized():
        return
    least = {"object_store_memory": LEAST_STORE_BYTES} if settings.is_here else {}
    try:
        with kept_handlers():
            ray.init(**{**least, **settings.init})
    except Exception as error:  # it raises whatever it meets
        words = " ".join(str(error).split())
        raise UsageError(f"{LAUNCHER}.init.address={settings.init.get('address')}: Ray cannot be used: {words}") from None


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put this process's signal handlers back after the block: `ray.init` replaces that of SIGTERM."""
    handlers = {number: signal.getsignal(number) for number in HELD_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster, each with its resources as Ray counts them: name -> amount."""

    nodes: Sequence[Mapping[str, float]]

    @classmethod
    def connected(cls) -> Cluster:
        """Return the cluster that this process is connected to."""
        import ray  # pyright: ignore[reportMissingImports]

        return cls([node["Resources"] for node in ray.nodes() if node["Alive"]])

    @property
    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) > 0 for node in self.nodes)

    def demand(self, settings: RaySettings, master: DictConfig, job: Sequence[str]) -> dict[str, float]:
        """Return the CPUs and GPUs of a run, as options of its task. `job`: its overrides."""
        devices = devices_per_job(master, [job])
        default = str(OmegaConf.select(master, "trainer.device", default="auto"))
        device = [default, *(line.partition("=")[2] for line in job if key_of(line) == "trainer.device")][-1]
        on_gpus = self.has_gpus and device.partition(":")[0] in ("auto", "cuda")
        auto = {"num_cpus": 1 if on_gpus else devices, "num_gpus": devices if on_gpus else 0}
        return {key: auto[key] if settings.remote[key] == "auto" else settings.remote[key] for key in RESOURCES}

    def at_once(self, demand: Mapping[str, float]) -> int:
        """Return how many runs of this demand the cluster makes at a time, if it makes no other. 0: no node has as much."""
        return sum(_fitting(node, demand) for node in self.nodes)

    def describe(self, demand: Mapping[str, float]) -> str:
        """Return how runs of this demand are made, as in `2 at a time on Ray (1 node), 1 CPU each`."""
        wanted = ((demand[key], name) for key, name in RESOURCES.items() if demand[key])
        each = " and ".join(f"{count:g} {name}{'' if count == 1 else 's'}" for count, name in wanted) or "no CPU"
        return f"{self.at_once(demand)} at a time on Ray ({plural(len(self.nodes), 'node')}), {each} each"

    def lacking(self, demand: Mapping[str, float]) -> str:
        """Return what no node has of this demand, as an option; empty when a node has all."""
        if self.at_once(demand):
            return ""
        most = {key: max((node.get(name, 0) for node in self.nodes), default=0) for key, name in RESOURCES.items()}
        key = next((key for key in RESOURCES if demand[key] > most[key]), "num_cpus")
        return f"a run asks for {key}={demand[key]:g} and no node has more than {most[key]:g}"


def _fitting(node: Mapping[str, float], demand: Mapping[str, float]) -> int:
    shares = [int(node.get(name, 0) / demand[key] + 1e-9) for key, name in RESOURCES.items() if demand[key] > 0]
    return min(shares, default=1)
