"""The launcher `ray_cluster`: each run is a task of Ray's, which schedules it and makes it again when its process is lost.

This module submits the tasks, shows what their folders say, and takes what became of them. Imports no torch.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from train.errors import SIGNALLED, Interrupted, UsageError
from train.store.files import CONSOLE_LOG
from train.store.run import FINISHED, read_status
from train.sweep import job as job_call
from train.sweep.compose import Compositions
from train.sweep.conclude import unwritten
from train.sweep.display import display_for
from train.sweep.jobs import Job, JobOutcome, compose_job, last_line, note_sharers, record_end
from train.sweep.progress import END_STATES, JobProgress, rows_of
from train.sweep.ray_cluster import LAUNCHER, Cluster, RaySettings, connect
from train.sweep.ray_run import StoppedError, TaskRequest, make_run
from train.sweep.stop import SignalCounter

POLL_S = 0.2
DISPLAY_INTERVAL_S = 0.5
COMPOSE_S = 0.5
"""How long jobs are composed and submitted before those that run are looked at again."""
GIVE_UP_S = 5.0
"""Time after the second signal in which Ray has to end the tasks. Then nobody waits for them any more."""


def launch(
    loader: ConfigLoader,
    master: DictConfig,
    task: str,
    settings: RaySettings,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run all jobs; return one JobReturn per job, in order, also for jobs that failed or did not start.

    Interrupted when a signal ended the sweep; UsageError when Ray cannot be used, or no node of it has what a run asks for."""
    if not job_overrides:
        return []
    folder = Path(str(master.hydra.sweep.dir)).absolute()
    connect(settings)
    cluster = Cluster.connected()
    demands = [cluster.demand(settings, master, job) for job in job_overrides]
    rows = rows_of(job_overrides, folder)
    jobs = [
        TaskJob(first + row.number - 1, list(job), row, demand=demand)
        for job, row, demand in zip(job_overrides, rows, demands, strict=True)
    ]
    tasks = Tasks(loader, master, task, settings, jobs, cluster)
    tasks.run(folder)
    if tasks.signals.first is not None:
        raise Interrupted(tasks.signals.first)
    return [job.as_job_return() for job in jobs]


@dataclass
class TaskJob(Job):
    """A job that is a task of Ray's.

    `demand`: its CPUs and GPUs; `before`: the process that its folder named when it was submitted; `process`: the last one since.
    """

    demand: Mapping[str, float] = field(default_factory=dict)
    before: tuple[Any, ...] = ()
    process: tuple[Any, ...] = ()

    def observe(self, now: float, has_many_nodes: bool) -> bool:
        """Read from the folder how far the run is. Return whether another process makes it than before."""
        assert self.folder is not None
        status = read_status(self.folder)
        process = process_of(status)
        is_other = process not in (self.before, self.process) and ("device" in status or status.get("status") in END_STATES)
        if is_other:
            self.row.device = ""
            self.row.attempt += bool(self.process)
            self.row.started_at = self.row.started_at or now
            self.row.state, self.process, self.progress = "running", process, JobProgress(self.folder)
        if self.progress is not None:
            self.progress.update(self.row)
            if not self.row.device and (device := str(status.get("device") or "").partition(",")[0]):
                self.row.device = f"{device} on {status.get('host')}" if has_many_nodes else device
        return is_other


def process_of(status: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells the process that made a run last; empty where there is none."""
    return (status["host"], status["pid"], status.get("resumed")) if "pid" in status and "host" in status else ()


class Tasks:
    """The tasks of one launch. `waiting`: jobs that are not submitted, in order; `submitted`: Ray's reference -> job."""

    def __init__(
        self,
        loader: ConfigLoader,
        master: DictConfig,
        task: str,
        settings: RaySettings,
        jobs: Sequence[TaskJob],
        cluster: Cluster,
    ) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        self.ray, self.master, self.task, self.settings, self.cluster = ray, master, task, settings, cluster
        self.jobs, self.waiting = jobs, deque(jobs)
        self.submitted: dict[Any, TaskJob] = {}
        self.compositions = Compositions(loader, master)
        self.display = display_for(sys.stdout)
        self.signals = SignalCounter(lambda: None)
        self.handled_signals = 0
        self.give_up_at = math.inf
        self.displayed_at = -math.inf
        self.slots = max(1, cluster.at_once(jobs[0].demand))
        self.remote = ray.remote(**{"retry_exceptions": [StoppedError], **settings.remote, **jobs[0].demand})(make_run)

    def run(self, folder: Path) -> None:
        """Submit the jobs, and wait until none is left. UsageError when Ray here never makes one."""
        self.refuse_endless()
        self.folder = folder
        self.display.open(folder, [job.row for job in self.jobs], self.cluster.describe(self.jobs[0].demand))
        try:
            with self.signals.listening():
                while (self.waiting or self.submitted) and time.monotonic() < self.give_up_at:
                    self.poll()
            for job in self.submitted.values():
                self.record_outcome(job, self.outcome(job, None))
            self.show(always=True)
        finally:
            self.display.close()

    def refuse_endless(self) -> None:
        """Raise UsageError for a run that Ray here would let wait forever. On a cluster, nodes may yet come."""
        lacking = next(filter(None, (self.cluster.lacking(job.demand) for job in self.jobs)), "")
        if lacking and self.settings.is_here:
            raise UsageError(f"{LAUNCHER}.remote: {lacking}. Ask for less, or use a cluster that has as much.")
        if lacking:
            self.display.message(f"{lacking}, so it waits until there is one")

    def poll(self) -> None:
        """Handle signals, submit jobs, take what has ended and update the display; waits briefly for an end."""
        self.handle_signals()
        until = time.monotonic() + COMPOSE_S
        while self.waiting and time.monotonic() < until:
            self.submit(self.waiting.popleft())
        references = list(self.submitted)
        if references:
            ended, _ = self.ray.wait(references, num_returns=len(references), timeout=POLL_S, fetch_local=False)
            for reference in ended:
                self.finish(self.submitted.pop(reference), reference)
        self.show()

    def submit(self, job: TaskJob) -> None:
        """Compose a job and give it to Ray; record it as failed when that cannot be."""
        try:
            compose_job(job, self.compositions, self.folder)
        except Exception as error:
            self.record_outcome(job, JobOutcome("failed", f"the configuration cannot be composed: {error}", transient=False))
            return
        assert job.config is not None and job.folder is not None  # noqa: PT018
        job.before = process_of(read_status(job.folder))
        request = job_call.JobRequest(job.config, self.task, str(job.config.hydra.job.name))
        reference = self.remote.options(name=job.row.label, **job.demand).remote(TaskRequest(request, job.folder, Path.cwd()))
        job.config = None  # a sweep has thousands
        self.submitted[reference] = job

    def finish(self, job: TaskJob, reference: Any) -> None:
        """Take what a task returned, or why Ray gave it up, and record the outcome."""
        error = None
        try:
            job.value = self.ray.get(reference)
        except self.ray.exceptions.RayError as raised:
            error = raised
        self.record_outcome(job, self.outcome(job, error))

    def outcome(self, job: TaskJob, error: Exception | None) -> JobOutcome:
        """Return how a job ended; write it to the run folder if the run could not."""
        assert job.folder is not None
        status = read_status(job.folder)
        state, has_started = status.get("status"), process_of(status) != job.before
        if state in END_STATES and (has_started or (error is None and state in FINISHED)):
            return JobOutcome(state, str(status.get("reason", "")), transient=False)
        if self.signals.first is not None and not has_started:
            return JobOutcome("interrupted", "", transient=False)
        state, reason = "failed", self.reason(job.folder, error)
        if self.signals.first is not None:
            state, reason = "interrupted", "its process was ended when the sweep was stopped"
        compose_job(job, self.compositions, self.folder)
        code = SIGNALLED + self.signals.first if self.signals.first is not None else 1
        return record_end(job, JobOutcome(state, reason, transient=False), exit_code=code)

    def reason(self, folder: Path, error: Exception | None) -> str:
        """Return why a run has not recorded an end: what its job has printed last if that has returned, else what Ray says."""
        errors = self.ray.exceptions
        if error is None:
            return last_line(folder / CONSOLE_LOG) or "its job has returned without a run"
        if isinstance(error, errors.RayTaskError):
            cause = getattr(error, "cause", error)
            return f"Ray could not make the run: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        if not Cluster.connected().nodes:
            return "Ray itself was lost, with all its nodes"
        lost = {errors.NodeDiedError: "its node was lost", errors.OutOfMemoryError: "Ray ended it, as its node ran out of memory"}
        what = next((words for kind, words in lost.items() if isinstance(error, kind)), "its process was killed")
        again = self.settings.retries
        return f"{what}; Ray has made it {again + 1} times, and makes it no more (hydra.launcher.ray.remote.max_retries={again})"

    def record_outcome(self, job: TaskJob, outcome: JobOutcome) -> None:
        now, row = time.monotonic(), job.row
        has_started = job.folder is not None and (self.observe(job, now) or row.has_started)
        row.started_at, row.ended_at = row.started_at or now, now
        row.state, row.reason, row.remaining_s = outcome.state, outcome.reason, None
        if outcome.state == "interrupted" and not has_started:
            row.state = "not started"
        elif outcome.state == "failed" and job.folder is not None and not read_status(job.folder):
            unwritten[job.folder.absolute()] = outcome.reason
        if job.folder is not None and 0 < (share := job.demand["num_gpus"]) < 1:
            note_sharers(job.folder, int(1 / share), mps=False)
        job.release()
        if row.state != "not started":
            self.display.job_ended(row, now)
        stops = OmegaConf.select(self.master, "sweep.on_error", default="continue") == "stop"
        if stops and row.state in ("failed", "interrupted"):
            self.cancel_unstarted()

    def observe(self, job: TaskJob, now: float) -> bool:
        """Read how far a run is; say when another process makes it than before. Return whether one has started."""
        attempt = job.row.attempt
        has_started = job.observe(now, len(self.cluster.nodes) > 1)
        if job.row.attempt > attempt:
            self.display.message(f"{job.row.number}: {job.row.label}: its process was lost; Ray has started another")
        return has_started

    def cancel_unstarted(self) -> None:
        """Start no run any more that has not started."""
        unstarted = [reference for reference, job in self.submitted.items() if not job.row.has_started]
        for reference in unstarted:
            self.ray.cancel(reference)
            self.submitted.pop(reference).row.state = "not started"
        for job in self.waiting:
            job.row.state = "not started"
        if unstarted or self.waiting:
            count = len(unstarted) + len(self.waiting)
            self.display.message(f"sweep.on_error=stop: not starting the remaining runs ({count})")
        self.waiting.clear()

    def handle_signals(self) -> None:
        """The first signal cancels the tasks: running runs save and exit. The second kills them."""
        if self.handled_signals == self.signals.count or self.signals.first is None:
            return
        self.handled_signals = self.signals.count
        for job in self.waiting:
            job.row.state = "not started"
        self.waiting.clear()
        if self.handled_signals == 1:
            self.display.message("stopping: running jobs save and exit; a second Ctrl-C kills them")
        for reference in self.submitted:
            self.ray.cancel(reference, force=self.handled_signals > 1)
        if self.handled_signals > 1:
            self.give_up_at = min(self.give_up_at, time.monotonic() + GIVE_UP_S)

    def show(self, always: bool = False) -> None:
        now = time.monotonic()
        if not always and now - self.displayed_at < DISPLAY_INTERVAL_S:
            return
        self.displayed_at = now
        for job in self.submitted.values():
            if self.observe(job, now):
                self.display.job_started(job.row)
        self.display.update([job.row for job in self.jobs], self.slots, now)
