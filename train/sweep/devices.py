"""Where the jobs of a sweep run: how many at once, on which device, with how many threads. Starts without torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from train.errors import UsageError

Devices: TypeAlias = Literal["auto", "cpu"] | tuple[int, ...]
LAUNCHER = "hydra.launcher"
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class PoolSettings:
    """`hydra.launcher`, checked. None: what suits the device."""

    devices: Devices
    jobs_per_device: int | None
    threads_per_job: int | None
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time. `environment`: what makes it find this device and no other."""

    device: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """All slots of a sweep, and the threads of the job in each."""

    slots: tuple[Slot, ...]
    threads: int

    @property
    def gpus(self) -> int:
        """How many different ones."""
        return len({slot.device for slot in self.slots if slot.device != "cpu"})

    @property
    def shared(self) -> bool:
        """Whether several jobs share a GPU, and so its memory."""
        return 0 < self.gpus < len(self.slots)


def parse_pool_settings(
    devices: Any, jobs_per_device: Any, threads_per_job: Any, timeout_minutes: Any, retries: Any
) -> PoolSettings:
    """UsageError that names the key and the remedy."""
    if timeout_minutes is not None and (not _is(timeout_minutes, int | float) or not timeout_minutes > 0):
        raise UsageError(f"{LAUNCHER}.timeout_minutes={timeout_minutes}: use a number above 0, or null for no limit.")
    if not _is(retries, int) or retries < 0:
        raise UsageError(f"{LAUNCHER}.retries={retries}: use a whole number, 0 for no second attempt.")
    return PoolSettings(
        devices=_devices(devices),
        jobs_per_device=_count("jobs_per_device", jobs_per_device),
        threads_per_job=_count("threads_per_job", threads_per_job),
        timeout_minutes=timeout_minutes,
        retries=retries,
    )


def allocate(settings: PoolSettings, runs: int, trainer_device: str, environment: Mapping[str, str] = os.environ) -> Allocation:
    """For `runs` jobs with `trainer.device=trainer_device`; never more slots than jobs. UsageError for a GPU that is not there.

    CPU: a job per core with one thread, which beats fewer jobs of more threads; where there are fewer jobs than cores, the cores
    are shared out. GPU: a job each. OMP_NUM_THREADS of the user's own sets the threads as `threads_per_job` does.
    """
    names = [] if settings.devices == "cpu" else visible_gpus(environment)
    on_cpu = settings.devices == "cpu" or (settings.devices == "auto" and (not names or trainer_device in ("cpu", "mps")))
    wished = settings.threads_per_job or _own_threads(environment)
    if on_cpu:
        count = max(1, min(runs, settings.jobs_per_device or cpu_cores() // (wished or 1)))
        hidden = {} if trainer_device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}
        return Allocation((Slot("cpu", hidden),) * count, wished or max(1, cpu_cores() // count))
    if trainer_device not in ("auto", "cuda", "cuda:0"):
        remedy = "Leave trainer.device out, or run on the CPU with hydra.launcher.devices=cpu trainer.device=cpu."
        raise UsageError(f"trainer.device={trainer_device}: each run of a sweep sees one GPU, that of its place. {remedy}")
    chosen = [_named(names, index) for index in settings.devices] if isinstance(settings.devices, tuple) else names
    slots = [_gpu_slot(name, environment) for _ in range(settings.jobs_per_device or 1) for name in chosen][: max(1, runs)]
    return Allocation(tuple(slots), wished or max(1, cpu_cores() // len(slots)))


def cpu_cores() -> int:
    """The CPU cores that this process may use: by its affinity, and by the limit of its container or control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, int(min(_quotas(), default=affinity))))


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The NVIDIA GPUs that a job could use, as CUDA_VISIBLE_DEVICES names them: in the order of the bus, or as that variable
    lists them. Asks the driver's own tool: CUDA must not begin in this process. None where there is no such tool."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    there = [line.strip() for line in told.splitlines() if line.strip().isdigit()]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    names: list[str] = []
    for name in filter(None, map(str.strip, visible.split(","))):
        if name not in there and not name.startswith(("GPU-", "MIG-")):
            break  # CUDA too ignores what follows a name that is none, such as Slurm's NoDevFiles
        names.append(name)
    return names


def _gpu_slot(name: str, environment: Mapping[str, str]) -> Slot:
    """The user's numbers keep the order that CUDA gives them; those of nvidia-smi are in the order of the bus."""
    order = {} if "CUDA_VISIBLE_DEVICES" in environment else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Slot(f"cuda:{name}", order | {"CUDA_VISIBLE_DEVICES": name})


def _named(names: Sequence[str], index: int) -> str:
    if index < len(names):
        return names[index]
    known = f"0 to {len(names) - 1}" if len(names) > 1 else "0" if names else "none"
    remedy = f"Use {LAUNCHER}.devices=auto or cpu, or list others."
    raise UsageError(f"{LAUNCHER}.devices: there is no GPU {index}; known: {known}. {remedy}")


def _devices(value: Any) -> Devices:
    if value == "auto" or value == "cpu":
        return value
    indices = [value] if _is(value, int) else list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if not indices or not all(_is(index, int) and index >= 0 for index in indices) or len(set(indices)) < len(indices):
        raise UsageError(f"{LAUNCHER}.devices={value}: use auto, cpu, or a list of different GPUs such as [0,1].")
    return tuple(indices)


def _count(key: str, value: Any) -> int | None:
    if value is not None and (not _is(value, int) or value < 1):
        raise UsageError(f"{LAUNCHER}.{key}={value}: use a whole number from 1 on, or null for what suits the device.")
    return value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _own_threads(environment: Mapping[str, str]) -> int | None:
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdigit() and int(first) > 0 else None


def _quotas() -> list[float]:
    """Cores allowed by each control group around this process; none where there is no limit, or no such thing."""
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    found: list[float] = []
    for _, controllers, path in entries:
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = CGROUPS / ("cpu" if controllers else "") / path.lstrip("/")
        for group in (folder, *folder.parents):
            found += _quota(group)
            if group == CGROUPS:
                break
    return found


def _quota(group: Path) -> list[float]:
    """Version 2 keeps quota and period in one file, version 1 in two."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        return [] if quota in ("max", "-1") else [max(1.0, int(quota) / int(period))]
    return []
