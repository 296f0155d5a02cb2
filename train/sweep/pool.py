"""The controller of a sweep: runs each job in a fresh process, on the slots of this machine. Imports no torch.

A job may raise, exit, crash, hang or be killed: it becomes one row, and the other jobs continue.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from train.errors import Interrupted, RunError
from train.store.files import CONSOLE_LOG
from train.store.run import read_status
from train.sweep import job as job_call
from train.sweep.compose import Compositions
from train.sweep.conclude import exit_codes, explain_unwritten, unwritten
from train.sweep.devices import Allocation, PoolSettings, allocate, describe_allocation, devices_per_job
from train.sweep.display import Display, display_for
from train.sweep.drawing import Drawings
from train.sweep.fork_server import ForkServer, Worker
from train.sweep.jobs import (
    Job,
    JobOutcome,
    compose_job,
    device_text,
    may_be_caused_by_another,
    note_sharers,
    resolve_outcome,
)
from train.sweep.mps import Service, service
from train.sweep.progress import rows_of
from train.sweep.reuse import set_aside
from train.sweep.stop import SignalCounter
from train.text import plural

POLL_S = 0.2
DISPLAY_INTERVAL_S = 0.5
KILL_GRACE_S = 10.0
"""Time between SIGTERM and SIGKILL for a job that exceeds its time limit, so that it can save."""
GIVE_UP_S = 5.0
"""Time after the second signal in which the killed jobs have to end. Then nobody waits for them any more."""


@dataclass(frozen=True)
class LaunchRequest:
    """What Hydra passes to a launcher.

    `task`: the task function as `module:function`. `fork_server`: one that is already running; its owner closes it.
    `needed_bytes`: the GPU memory of a run; None: unknown. `mps`: NVIDIA's service, if it was begun earlier."""

    loader: ConfigLoader
    master: DictConfig
    task: str
    settings: PoolSettings
    fork_server: ForkServer | None = None
    needed_bytes: int | None = None
    mps: Service | None = None

    @property
    def on_error(self) -> Literal["continue", "stop"]:
        return OmegaConf.select(self.master, "sweep.on_error", default="continue")

    @property
    def folder(self) -> Path:
        return Path(str(self.master.hydra.sweep.dir)).absolute()


def launch(request: LaunchRequest, job_overrides: Sequence[Sequence[str]], initial_index: int) -> list[JobReturn]:
    """Run all jobs; return one JobReturn per job, in order, also for jobs that failed or did not start.

    Interrupted when a signal ended the sweep; UsageError when a setting of the launcher does not fit the machine."""
    if not job_overrides:
        return []
    device = str(OmegaConf.select(request.master, "trainer.device", default="auto"))
    per_job = devices_per_job(request.master, job_overrides)
    allocation = allocate(request.settings, len(job_overrides), device, needed_bytes=request.needed_bytes, per_job=per_job)
    rows = rows_of(job_overrides, request.folder)
    jobs = [Job(initial_index + row.number - 1, list(job), row) for job, row in zip(job_overrides, rows, strict=True)]
    with nullcontext(request.fork_server) if request.fork_server else ForkServer(allocation.threads) as fork_server:
        wanted = request.settings.mps if allocation.shared else False
        with service(wanted, allocation.slots[0].environment, fork_server, request.mps) as mps:
            pool = Pool(request, jobs, replace(allocation, mps=mps), fork_server, display_for(sys.stdout))
            pool.run()
        fork_server.at_end(pool.drawings.complete)
    exit_codes.append(int(any(job.row.state == "failed" for job in jobs)))
    if pool.signals.first is not None:
        raise Interrupted(pool.signals.first)
    return [job.as_job_return() for job in jobs]


class Pool:
    """The scheduler of one launch. `waiting`: jobs to start, in order; `running`: worker -> job; `free`: idle slots."""

    def __init__(
        self,
        request: LaunchRequest,
        jobs: Sequence[Job],
        allocation: Allocation,
        fork_server: ForkServer,
        display: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request, self.settings, self.fork_server = request, request.settings, fork_server
        self.jobs, self.allocation, self.display, self.clock = jobs, allocation, display, clock
        self.compositions = Compositions(request.loader, request.master)
        self.waiting = deque(jobs)
        self.running: dict[Worker, Job] = {}
        self.drawings = Drawings(fork_server, allocation, display.message, clock)
        self.free = deque(allocation.slots)
        self.is_held = False
        """Whether no job is started before another has ended, as the system allows no more processes."""
        self.signals = SignalCounter(fork_server.end_waiting)
        self.handled_signals = 0
        self.give_up_at = math.inf
        self.displayed_at = -math.inf

    def run(self) -> None:
        """Run the jobs until none is running or waiting. Figures may be drawn until the fork server is closed."""
        self.display.open(self.request.folder, [job.row for job in self.jobs], describe_allocation(self.allocation))
        self.fork_server.watch.say, self.fork_server.failure = self.display.message, RunError
        try:
            with self.signals.listening():
                while self.waiting or self.running:
                    self.poll()
            self.show(always=True)
            if again := sum(job.without_mps for job in self.jobs):
                self.display.message(f"made once more without MPS after a CUDA error: {plural(again, 'run')}", "info")
        finally:
            self.display.close()

    def poll(self) -> None:
        """Handle signals, start and finish jobs, enforce limits and update the display; waits briefly for an event."""
        self.handle_signals()
        while self.waiting and self.free and not self.is_held:
            self.start(self.waiting.popleft())
        for worker in self.wait():
            self.handle_signals()  # a second one may have ended it
            self.is_held = False
            if worker in self.running:
                self.finish(self.running.pop(worker), worker)
            elif worker in self.drawings.workers and (slot := self.drawings.finish(worker)) is not None:
                self.free.append(slot)
        self.enforce_limits()
        self.show()

    def wait(self) -> list[Worker]:
        """Return the workers that exited. Composes the next jobs in the meantime, so that no slot waits for Hydra."""
        for job in list(self.waiting)[: len(self.allocation.slots)]:
            if job.config is None:
                if exited := self.fork_server.wait(0.0):
                    return exited
                self.ensure_composed(job)
        return self.fork_server.wait(POLL_S)

    def ensure_composed(self, job: Job) -> bool:
        """Compose the job's configuration if needed. False when that fails; the job is then recorded as failed."""
        if job.config is None:
            try:
                compose_job(job, self.compositions, self.request.folder)
            except Exception as error:
                if job in self.waiting:
                    self.waiting.remove(job)
                self.refuse(job, f"the configuration cannot be composed: {error}")
                return False
        return True

    def refuse(self, job: Job, reason: str) -> None:
        """Record that a job failed before it had a process."""
        job.row.started_at = job.row.ended_at = self.clock()
        self.record_outcome(job, JobOutcome("failed", reason, transient=False))

    def hold(self, job: Job, error: RunError) -> None:
        """Let a job wait until another has ended, as no process can be started for it. RunError when there is no other."""
        self.waiting.appendleft(job)
        self.is_held = True
        if not self.signals.count:  # else a signal ended the server, and cancels the job
            if not self.fork_server.workers:
                raise error
            self.display.message(f"{job.row.number}: {job.row.label}: waits until another run has ended: {error}")

    def start(self, job: Job) -> None:
        """Start the job in the slot that has been idle for longest; waits while the fork server imports."""
        if not self.ensure_composed(job):
            return
        assert job.config is not None and job.folder is not None  # noqa: PT018
        job_request = job_call.JobRequest(job.config, self.request.task, str(job.config.hydra.job.name))
        slot = self.free.popleft()
        mps = {} if job.without_mps else self.allocation.mps
        environment = {**slot.environment, **mps}
        try:
            job.worker = self.fork_server.start(
                job_call.CALL, job_request, job.folder / CONSOLE_LOG, environment, self.allocation.threads
            )
        except (OSError, RunError) as error:
            self.free.appendleft(slot)
            self.hold(job, error) if isinstance(error, RunError) else self.refuse(job, explain_unwritten(job.folder, error))
            return
        now, row = self.clock(), job.row
        job.begin(slot, now, self.settings.timeout_minutes)
        row.device = device_text(slot, self.allocation.sharers(slot), bool(mps))
        self.running[job.worker] = job
        self.display.job_started(row)

    def finish(self, job: Job, worker: Worker) -> None:
        """Free the slot of a job whose process has exited; record its outcome or queue another attempt."""
        assert job.folder is not None
        assert job.slot is not None
        assert job.progress is not None
        assert worker.exit_code is not None
        job.row.ended_at = self.clock()
        job.value, figures = worker.value if isinstance(worker.value, tuple) else (math.nan, b"")
        job.progress.update(job.row)
        seconds, limit = job.row.ended_at - job.row.started_at, self.settings.timeout_minutes
        outcome = resolve_outcome(job, worker.exit_code, seconds, limit, self.allocation.shared)
        client = bool(self.allocation.mps) and not job.without_mps
        note_sharers(job.folder, self.allocation.sharers(job.slot), client)
        again = client and may_be_caused_by_another(job, outcome)
        retry = again or (outcome.transient and job.row.attempt - job.without_mps <= self.settings.retries)
        retry = retry and not self.signals.count
        if retry and (problem := set_aside(self.request.folder, job.folder)):
            retry, outcome = False, replace(outcome, reason=f"{outcome.reason}; not tried again: {problem}")
        if retry or not self.drawings.start(job, figures):
            self.free.append(job.slot)
        if retry:
            job.without_mps |= again
            reason, how = outcome.reason.partition("\n")[0], "once more without MPS" if again else "retrying"
            self.display.message(f"{job.row.number}: {job.row.label}: {reason}; {how}")
            job.row.attempt += 1
            job.row.state = "waiting"
            self.waiting.append(job)
        else:
            self.record_outcome(job, outcome)

    def record_outcome(self, job: Job, outcome: JobOutcome) -> None:
        job.row.state, job.row.reason, job.row.remaining_s = outcome.state, outcome.reason, None
        if outcome.state == "failed" and job.folder is not None and not read_status(job.folder):
            unwritten[job.folder.absolute()] = outcome.reason
        job.release()
        self.display.job_ended(job.row, self.clock())
        if outcome.state in ("failed", "interrupted") and self.request.on_error == "stop" and self.waiting:
            self.display.message(f"sweep.on_error=stop: not starting the remaining runs ({len(self.waiting)})")
            self.cancel_waiting()

    def cancel_waiting(self) -> None:
        for job in self.waiting:
            job.row.state = "not started"
        self.waiting.clear()

    def handle_signals(self) -> None:
        """Cancel the waiting jobs. The first signal asks running jobs to save and exit; the second kills them."""
        if self.handled_signals == self.signals.count or self.signals.first is None:
            return
        self.handled_signals = self.signals.count
        self.cancel_waiting()
        if self.handled_signals == 1:
            self.display.message("stopping: running jobs save and exit; a second Ctrl-C kills them")
        for job in self.running.values():
            self.send(job, self.signals.first if self.handled_signals == 1 else signal.SIGKILL)
        if self.handled_signals > 1:
            self.drawings.kill()
            self.give_up_at = min(self.give_up_at, self.clock() + GIVE_UP_S)

    def enforce_limits(self) -> None:
        now = self.clock()
        for job in self.running.values():
            if now >= job.deadline:
                job.deadline, job.kill_at, job.timed_out = math.inf, now + KILL_GRACE_S, True
                self.send(job, signal.SIGTERM)
            elif now >= job.kill_at:
                self.send(job, signal.SIGKILL)
        self.drawings.kill(now)
        if now >= self.give_up_at:
            self.fork_server.kill()

    def send(self, job: Job, number: int) -> None:
        assert job.worker is not None
        job.sent_signals.add(number)
        job.worker.signal(number)

    def show(self, always: bool = False) -> None:
        now = self.clock()
        if not always and now - self.displayed_at < DISPLAY_INTERVAL_S:
            return
        self.displayed_at = now
        for job in self.running.values():
            if job.progress is not None:
                job.progress.update(job.row)
        self.display.update([job.row for job in self.jobs], len(self.allocation.slots), now)
