"""The launcher `slurm`: one job array of Slurm's for all due runs, submitted with submitit. Imports no torch.

Scheduling is Slurm's. A job makes several runs where they share an allocation, with the pool that makes a sweep on one machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig

from train.errors import Interrupted, UsageError
from train.run.signals import requeue_of_submitit
from train.store.run import FINISHED, read_run
from train.sweep.devices import cpu_cores, devices_per_job, parse_pool_settings
from train.sweep.fork_server import ForkServer
from train.sweep.plan_text import show
from train.sweep.pool import LaunchRequest
from train.sweep.pool import launch as launch_pool
from train.sweep.submissions import ANSWER_S, draw_name, queue, record
from train.text import plural

LAUNCHER = "hydra.launcher"
OURS = frozenset({"runs_per_job", "runs_at_once", "wait", "max_num_timeout"})
COMMON = frozenset(
    {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout"}
)
"""The keys that submitit has for every engine; the others belong to Slurm."""
ASKING_FOR_GPUS = frozenset({"gres", "gpus", "gpus_per_socket", "gpus_per_task", "tres_per_task"})
"""Options of sbatch, besides `gpus_per_node`."""
MORE_RUNS_PER_JOB = (
    f"\nA cluster limits the jobs of an array (scontrol show config | grep MaxArraySize). Let a job make several runs: "
    f"{LAUNCHER}.runs_per_job=8"
)
SUBDIR_KEY = "hydra.sweep.subdir"
WAIT_S = 5.0


@dataclass(frozen=True)
class Chunk:
    """The runs of one Slurm job. submitit pickles it; a job that Slurm starts again finds the same runs in the same folders."""

    loader: ConfigLoader
    master: DictConfig
    task: str
    settings: Mapping[str, Any]
    jobs: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    first: int
    singletons: Mapping[Any, Any]

    def __call__(self) -> None:
        """Make the runs that have not finished. When the job is preempted or out of time, they save and it is queued again."""
        Singleton.set_state(dict(self.singletons))
        setup_globals()
        importlib.import_module(self.task.partition(":")[0]).register_resolvers()
        request = LaunchRequest(self.loader, self.master, self.task, parse_pool_settings(**self.settings))
        due = [job for job, folder in zip(self.jobs, self.folders, strict=True) if not _is_finished(request.folder / folder)]
        requeue = requeue_of_submitit()
        is_preempted = False

        def preempted(number: int, frame: FrameType | None) -> None:
            nonlocal is_preempted
            del number, frame
            is_preempted = True
            signal.raise_signal(signal.SIGTERM)  # the pool asks its runs to save

        if requeue is None:
            launch_pool(request, due, self.first)
            return
        number = signal.Signals(requeue.number)
        signal.signal(number, signal.SIG_IGN)  # Slurm signals every process; those of the pool inherit this
        try:
            with ForkServer(self.settings["threads_per_job"] or cpu_cores()) as fork_server:
                signal.signal(number, preempted)
                launch_pool(replace(request, fork_server=fork_server), due, self.first)
        except Interrupted as error:
            if is_preempted:
                requeue.handler(requeue.number, None)
            raise SystemExit(error.exit_code) from None  # submitit would take it for a result
        finally:
            signal.signal(number, signal.SIG_IGN)

    def checkpoint(self) -> Any:
        """Return what submitit queues again: the same runs."""
        import submitit  # pyright: ignore[reportMissingImports]

        return submitit.helpers.DelayedSubmission(self)


def submit(
    loader: ConfigLoader,
    master: DictConfig,
    task: str,
    settings: Mapping[str, Any],
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Submit all jobs as one array. UsageError when Slurm refuses them, with its words."""
    import submitit  # pyright: ignore[reportMissingImports]

    sweep = Path(str(master.hydra.sweep.dir)).absolute()
    size, at_once = settings["runs_per_job"], settings["runs_at_once"]
    pool = {
        "devices": "auto",
        "jobs_per_device": at_once,
        "threads_per_job": threads(settings.get("cpus_per_task"), at_once),
        "timeout_minutes": None,
        "retries": 1,
        "mps": "auto",
    }
    name, chunks = draw_name(), []
    for start in range(0, len(job_overrides), size):
        jobs = tuple(tuple(job) for job in job_overrides[start : start + size])
        folders = tuple(map(folder_of, jobs))
        chunks.append(Chunk(loader, master, task, pool, jobs, folders, first + start, Singleton.get_state()))
    wanted = {key: value for key, value in settings.items() if key not in OURS and value is not None}
    if wanted.get("gpus_per_node") == "auto":
        wanted["gpus_per_node"] = gpus_of_job(wanted, devices_per_job(master, job_overrides))
    wanted["additional_parameters"] = {"requeue": True, **dict(wanted.get("additional_parameters") or {})}
    folder = record(sweep, name, [chunk.folders for chunk in chunks])
    executor = submitit.AutoExecutor(folder / "%j", cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"])
    try:
        number = _submitted(executor, name, wanted, chunks)
        each = f" of up to {plural(size, 'run')}" if size > 1 else ""
        show([f"slurm  submitted job array {number}: {plural(len(chunks), 'job')}{each}; squeue --job={number} shows them"])
        while settings["wait"] and any(queued == name for queued, _ in queue(sweep)):
            time.sleep(WAIT_S)
    except KeyboardInterrupt:
        show([f"slurm  jobs that Slurm has taken go on: squeue --name={name} shows them, scancel --name={name} ends them"])
        raise
    return [JobReturn(overrides=list(job), status=JobStatus.UNKNOWN) for job in job_overrides]


def _submitted(executor: Any, name: str, settings: Mapping[str, Any], chunks: Sequence[Chunk]) -> str:
    """Submit the jobs and return the number of their array. UsageError when Slurm refuses them, with its words."""
    import submitit  # pyright: ignore[reportMissingImports]

    parameters = {key if key in COMMON else f"slurm_{key}": value for key, value in settings.items() if value is not None}
    try:
        executor.update_parameters(name=name, **parameters)
        with executor.batch():
            jobs = [executor.submit(chunk) for chunk in chunks]
    except (OSError, RuntimeError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
        words = str(error).strip()
        remedy = MORE_RUNS_PER_JOB if "job array specification" in words else ""
        raise UsageError(f"hydra/launcher=slurm: the jobs were not submitted: {words}{remedy}") from None
    return jobs[0].job_id.partition("_")[0]


def folder_of(job: Sequence[str]) -> str:
    """Return the folder of a run below that of the sweep, from the overrides of its job."""
    lines = [line for line in job if line.startswith(f"{SUBDIR_KEY}=")]
    return str(OverridesParser.create().parse_override(lines[-1]).value())


def threads(cpus_per_task: int | None, at_once: int) -> int | None:
    """Return the threads of a run: the job's cores shared out. None: `OMP_NUM_THREADS` is set, or the cores are not known."""
    return None if cpus_per_task is None or "OMP_NUM_THREADS" in os.environ else max(1, cpus_per_task // at_once)


def gpus_of_job(settings: Mapping[str, Any], devices: int) -> int | None:
    """Return how many GPUs a job asks for: those of one run where its partition has any; None if the user asks in other words.

    `settings`: those of the launcher that are not null; `devices`: of a run. Slurm refuses a job that asks for a GPU where there
    is none, and one that asks twice.
    """
    named = {str(key).replace("-", "_") for key in (*settings, *(settings.get("additional_parameters") or {}))}
    if named & ASKING_FOR_GPUS:
        return None
    return devices if has_gpus(settings.get("partition") or os.environ.get("SBATCH_PARTITION")) else None


def has_gpus(partition: str | None) -> bool:
    """Return whether a node of the partition has GPUs. None: of the cluster's default one, of any if there is none.

    UsageError when Slurm cannot be asked.
    """
    command = ["sinfo", "--noheader", "--format=%P|%G", *([f"--partition={partition}"] if partition else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip()
        raise UsageError(
            f"hydra/launcher=slurm: Slurm does not answer here (sinfo: {words}). Start the sweep where jobs are "
            "submitted, or use hydra/launcher=slurm_local."
        ) from None
    lines = [line.strip().partition("|") for line in done.stdout.splitlines()]
    default = [line for line in lines if line[0].endswith("*")]  # so sinfo marks it
    chosen = lines if partition or not default else default
    return any(part.strip().startswith("gpu") for *_, resources in chosen for part in resources.split(","))


def check(settings: Mapping[str, Any]) -> None:
    """Check the settings of the launcher. UsageError names the key and the remedy."""
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("hydra/launcher=slurm: submitit is not installed. pip install hydra-submitit-launcher")
    for key in ("runs_per_job", "runs_at_once"):
        value = settings[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{LAUNCHER}.{key}={value}: use a whole number, 1 or above.")
    if not isinstance(settings["wait"], bool):
        raise UsageError(f"{LAUNCHER}.wait={settings['wait']}: use true or false.")


def _is_finished(folder: Path) -> bool:
    try:
        return read_run(folder).state in FINISHED
    except (OSError, UsageError):
        return False
