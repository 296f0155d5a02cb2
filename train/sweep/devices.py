"""The allocation of a sweep's jobs: how many at a time, on which device, with how many threads. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from omegaconf import OmegaConf

from train.errors import UsageError
from train.run.torchrun import refuse_torchrun
from train.store.overrides import key_of
from train.sweep.mps import required_tool

Devices: TypeAlias = Literal["auto", "cpu"] | tuple[int, ...]
LAUNCHER = "hydra.launcher"
DEVICES_KEY = "trainer.devices"
CGROUPS = Path("/sys/fs/cgroup")

MAX_JOBS_PER_GPU = 8
"""More processes that train a ResNet-20 took few more images a second on an H100: under MPS eight took twice as many as one and
sixteen no more; in turn, four took nearly as many as sixteen. What a run does on the host, eight can do at the same time."""


@dataclass(frozen=True)
class PoolSettings:
    """The validated settings `hydra.launcher`. None: the default of the device. `mps`: NVIDIA's service, None: where it helps."""

    devices: Devices
    jobs_per_device: int | None
    threads_per_job: int | None
    timeout_minutes: float | None
    retries: int
    mps: bool | None = None


@dataclass(frozen=True)
class Slot:
    """A device, or several GPUs, for one job at a time. `environment`: the variables that show the job these and no others."""

    device: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """All slots of a sweep, and the number of threads of each job.

    `mps`: variables that make a job a client of NVIDIA's Multi-Process Service; empty without it. `may_use_mps`: whether they
    may get some, as jobs share a GPU, or would if it was known how much memory they need."""

    slots: tuple[Slot, ...]
    threads: int
    mps: Mapping[str, str] = field(default_factory=dict)
    may_use_mps: bool = False

    @property
    def gpus(self) -> int:
        """The number of distinct GPUs."""
        return sum(device.count(",") + 1 for device in self._places)

    @property
    def _places(self) -> set[str]:
        return {slot.device for slot in self.slots if slot.device != "cpu"}

    @property
    def shared(self) -> bool:
        """Whether several jobs share a GPU, and thus its memory."""
        return 0 < len(self._places) < len(self.slots)

    def sharers(self, slot: Slot) -> int:
        """Return how many jobs at most are on the GPU of this slot; 1 on the CPU."""
        return 1 if slot.device == "cpu" else sum(other.device == slot.device for other in self.slots)


def parse_pool_settings(
    devices: Any, jobs_per_device: Any, threads_per_job: Any, timeout_minutes: Any, retries: Any, mps: Any
) -> PoolSettings:
    """Validate the settings of the launcher. UsageError names the key and the remedy."""
    if mps != "auto" and not isinstance(mps, bool):
        raise UsageError(f"{LAUNCHER}.mps={mps}: use auto, true or false.")
    if mps is True:
        required_tool()
    if timeout_minutes is not None and (not _is_type(timeout_minutes, int | float) or not timeout_minutes > 0):
        raise UsageError(f"{LAUNCHER}.timeout_minutes={timeout_minutes}: use a number above 0, or null for no limit.")
    if not _is_type(retries, int) or retries < 0:
        raise UsageError(f"{LAUNCHER}.retries={retries}: use a whole number; 0 disables retries.")
    return PoolSettings(
        devices=_parse_devices(devices),
        jobs_per_device=_parse_count("jobs_per_device", jobs_per_device),
        threads_per_job=_parse_count("threads_per_job", threads_per_job),
        timeout_minutes=timeout_minutes,
        retries=retries,
        mps=None if mps == "auto" else mps,
    )


def allocate(
    settings: PoolSettings,
    runs: int,
    trainer_device: str,
    environment: Mapping[str, str] = os.environ,
    needed_bytes: int | None = None,
    per_job: int = 1,
) -> Allocation:
    """Allocate slots for `runs` jobs with `trainer.device=trainer_device`, never more slots than jobs.

    CPU: one job per core with one thread, which is faster than fewer jobs with more threads. With fewer jobs than cores, the jobs
    share the cores. GPU: as many as its memory and the cores allow, when `needed_bytes`, the memory of a job, is known; else one
    job each. The user's OMP_NUM_THREADS sets the threads as `threads_per_job` does. UsageError for a GPU that does not exist.

    `per_job`: `trainer.devices`. So many GPUs make a slot, for one job where `jobs_per_device` does not say more; on the CPU, a
    job has so many processes.
    """
    refuse_torchrun(environment)
    names = [] if settings.devices == "cpu" else visible_gpus(environment)
    on_cpu = settings.devices == "cpu" or (settings.devices == "auto" and (not names or trainer_device in ("cpu", "mps")))
    threads = settings.threads_per_job or _user_threads(environment)
    if on_cpu:
        count = max(1, min(runs, settings.jobs_per_device or cpu_cores() // (threads or 1) // per_job))
        hidden = {} if trainer_device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}
        return Allocation((Slot("cpu", hidden),) * count, threads or max(1, cpu_cores() // count))
    if trainer_device not in ("auto", "cuda", "cuda:0"):
        remedy = "Leave trainer.device out, or run on the CPU with hydra.launcher.devices=cpu trainer.device=cpu."
        raise UsageError(f"trainer.device={trainer_device}: each run of a sweep sees one GPU, that of its slot. {remedy}")
    chosen = [_gpu_name(names, index) for index in settings.devices] if isinstance(settings.devices, tuple) else names
    at_most, each = (
        settings.jobs_per_device or jobs_per_gpu(chosen, needed if per_job == 1 else None, environment)
        for needed in (1, needed_bytes)
    )
    places = [chosen[first : first + per_job] for first in range(0, len(chosen) - per_job + 1, per_job)]
    if not places:
        raise UsageError(f"trainer.devices={per_job}: the sweep has {len(chosen)} GPU(s). Use fewer, or trainer.device=cpu.")
    slots = [_gpu_slot(",".join(place), environment) for _ in range(each) for place in places][: max(1, runs)]
    may_use_mps = settings.mps is not False and len(places) < min(runs, at_most * len(places))
    return Allocation(tuple(slots), threads or max(1, cpu_cores() // len(slots)), may_use_mps=may_use_mps)


def devices_per_job(master: Any, jobs: Iterable[Sequence[str]] = ()) -> int:
    """Return `trainer.devices`, the largest where it is swept, so that every slot suits every job.

    `master`: the sweep's configuration.
    """
    typed = [override.partition("=")[2] for job in jobs for override in job if key_of(override) == DEVICES_KEY]
    numbers = [str(OmegaConf.select(master, DEVICES_KEY, default=1)), *typed]
    return max((int(number) for number in numbers if number.isdigit() and int(number)), default=1)


def jobs_per_gpu(names: Sequence[str], needed_bytes: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many jobs share each of these GPUs: what the smallest has memory for, a core for each, at most MAX_JOBS_PER_GPU.

    1 when the memory of the job or of a GPU is not known. A rule on the hardware: a busy GPU must not change what is run.
    """
    if needed_bytes is None:
        return 1
    memory = gpu_memory()
    # The user's indices may follow another order than those of nvidia-smi: then any GPU could be meant.
    exact = "CUDA_VISIBLE_DEVICES" not in environment
    sizes = [memory.get(name) for name in names] if exact else list(memory.values())
    if not sizes or None in sizes or any(name.startswith("MIG-") for name in names):
        return 1
    fitting = min(size for size in sizes if size is not None) // needed_bytes
    return max(1, min(MAX_JOBS_PER_GPU, fitting, cpu_cores() // len(names)))


def gpu_memory() -> dict[str, int | None]:
    """Return index -> bytes of memory, as nvidia-smi numbers the GPUs. None: unknown, or the GPU is divided into instances."""
    output = _nvidia_smi("index,memory.total,mig.mode.current")
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return {row[0]: int(row[1]) * 2**20 if row[1].isdigit() and row[2] != "Enabled" else None for row in rows if len(row) == 3}


def cpu_cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and by the limit of its container or control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, int(min(_cpu_quotas(), default=affinity))))


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the NVIDIA GPUs that a job could use, as CUDA_VISIBLE_DEVICES names them: in bus order, or as that variable lists
    them. Asks nvidia-smi, as CUDA must not be initialised in this process; returns an empty list without that tool."""
    present = [line.strip() for line in _nvidia_smi("index").splitlines() if line.strip().isdigit()]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    names: list[str] = []
    for name in filter(None, map(str.strip, visible.split(","))):
        if name not in present and not name.startswith(("GPU-", "MIG-")):
            break  # CUDA too ignores everything after an invalid name, such as Slurm's NoDevFiles
        names.append(name)
    return names


def _nvidia_smi(query: str) -> str:
    """Return nvidia-smi's answer to a query, a line for each GPU, memory in MiB; empty without that tool."""
    tool = shutil.which("nvidia-smi")
    return "" if tool is None else _answer(tool, query)


@cache  # it may take a second, and GPUs do not come and go
def _answer(tool: str, query: str) -> str:
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _gpu_slot(name: str, environment: Mapping[str, str]) -> Slot:
    """Return the slot of a GPU, or of several with commas.

    Indices of the user follow CUDA's order; those of nvidia-smi are in bus order.
    """
    order = {} if "CUDA_VISIBLE_DEVICES" in environment else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Slot(f"cuda:{name}", order | {"CUDA_VISIBLE_DEVICES": name})


def _gpu_name(names: Sequence[str], index: int) -> str:
    if index < len(names):
        return names[index]
    available = f"0 to {len(names) - 1}" if len(names) > 1 else "0" if names else "none"
    remedy = f"Use {LAUNCHER}.devices=auto or cpu, or list available GPUs."
    raise UsageError(f"{LAUNCHER}.devices: there is no GPU {index}; available: {available}. {remedy}")


def _parse_devices(value: Any) -> Devices:
    if value == "auto" or value == "cpu":
        return value
    indices = (
        [value] if _is_type(value, int) else list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    )
    if not indices or not all(_is_type(index, int) and index >= 0 for index in indices) or len(set(indices)) < len(indices):
        raise UsageError(f"{LAUNCHER}.devices={value}: use auto, cpu, or a list of distinct GPUs such as [0,1].")
    return tuple(indices)


def _parse_count(key: str, value: Any) -> int | None:
    if value is not None and (not _is_type(value, int) or value < 1):
        raise UsageError(f"{LAUNCHER}.{key}={value}: use a whole number of at least 1, or null for the default.")
    return value


def _is_type(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _user_threads(environment: Mapping[str, str]) -> int | None:
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdigit() and int(first) > 0 else None


def _cpu_quotas() -> list[float]:
    """Return the cores that each control group around this process allows; empty without limits or control groups."""
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    quotas: list[float] = []
    for _, controllers, path in entries:
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = CGROUPS / ("cpu" if controllers else "") / path.lstrip("/")
        for group in (folder, *folder.parents):
            quotas += _group_quota(group)
            if group == CGROUPS:
                break
    return quotas


def _group_quota(group: Path) -> list[float]:
    """Return the limit of one control group, if any. Version 2 keeps quota and period in one file, version 1 in two."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        return [] if quota in ("max", "-1") else [max(1.0, int(quota) / int(period))]
    return []


def describe_allocation(allocation: Allocation) -> str:
    """Return the allocation in words, as in `2 at a time on the CPU, 1 thread each`."""
    count, threads = len(allocation.slots), "1 thread" if allocation.threads == 1 else f"{allocation.threads} threads"
    device = "on the CPU" if not allocation.gpus else f"on {allocation.gpus} GPU" + ("s" if allocation.gpus > 1 else "")
    return f"{count} at a time {device}{' under MPS' if allocation.mps else ''}, {threads} each"
