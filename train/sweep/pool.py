"""Runs the jobs of a sweep, each in a fresh process, over the places that a machine has. The controller: no torch in here.

Whatever a job does (raise, exit, crash, hang, be killed), it is one row, and the others go on.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hydra import version
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from train.errors import Interrupted
from train.sweep import job as job_call
from train.sweep.devices import Allocation, PoolSettings, allocate
from train.sweep.display import Display, display_for
from train.sweep.fork_server import ForkServer, ForkServerLost, WorkerExit
from train.sweep.job_outcome import JobOutcome, resolve_outcome
from train.sweep.jobs import CONSOLE_LOG, Job, compose_job, needs_torchvision
from train.sweep.progress import JobProgress, JobRow, job_labels
from train.sweep.reuse import archive

POLL_S = 0.2
SHOWN_EVERY_S = 0.5
GRACE_S = 10.0
"""From asking a job that exceeds its time limit to end, to killing it: it may want to save."""
MAX_FORK_SERVERS = 3
"""A process that starts jobs is started again when something kills it; not forever."""


@dataclass(frozen=True)
class LaunchRequest:
    """What Hydra hands to a launcher.

    `task`: the task function as `module:function`. `fork_server`: one that already runs; its owner closes it."""

    loader: ConfigLoader
    master: DictConfig
    task: str
    settings: PoolSettings
    fork_server: ForkServer | None = None

    @property
    def on_error(self) -> Literal["continue", "stop"]:
        return OmegaConf.select(self.master, "sweep.on_error", default="continue")

    @property
    def folder(self) -> Path:
        return Path(str(self.master.hydra.sweep.dir)).absolute()


def launch(request: LaunchRequest, job_overrides: Sequence[Sequence[str]], initial_index: int) -> list[JobReturn]:
    """Run all; one JobReturn per job, in order, also for those that failed or did not start. Interrupted when a signal ended the
    sweep; UsageError when a setting of the launcher does not fit the machine."""
    if not job_overrides:
        return []
    device = str(OmegaConf.select(request.master, "trainer.device", default="auto"))
    where = allocate(request.settings, len(job_overrides), device)
    names = job_labels(job_overrides)
    jobs = [
        Job(initial_index + place, list(overrides), JobRow(initial_index + place + 1, names[place]))
        for place, overrides in enumerate(job_overrides)
    ]
    pool = Pool(request, jobs, where, display_for(sys.stdout))
    pool.run()
    if pool.signals.first is not None:
        raise Interrupted(pool.signals.first)
    return [job.as_job_return() for job in jobs]


class SignalCounter:
    """SIGINT and SIGTERM as they arrive: the first asks for an orderly end, a second for an end at once."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.count = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In a thread, where Python cannot listen, signals do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._came) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _came(self, number: int, _: object) -> None:
        self.first = number if self.first is None else self.first
        self.count += 1


class Pool:
    """`waiting`: jobs that have not started, in order; `running`: child -> job; `free`: slots without a job."""

    def __init__(
        self,
        request: LaunchRequest,
        jobs: Sequence[Job],
        where: Allocation,
        board: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request, self.settings = request, request.settings
        self.jobs, self.allocation, self.display, self.clock = jobs, where, board, clock
        self.waiting = deque(jobs)
        self.running: dict[int, Job] = {}
        self.free = deque(where.slots)
        self.signals = SignalCounter()
        self.handled_signals = 0
        self.fork_server_count = 0
        self.shown_at = -math.inf
        self.fork_server: ForkServer | None = None
        self.prewarmed = request.fork_server

    def run(self) -> None:
        """Until no job runs and none is to start."""
        self.display.open(self.request.folder, [job.row for job in self.jobs], describe_allocation(self.allocation))
        try:
            with self.signals.listening():
                while self.waiting or self.running:
                    self.poll()
            self.show(always=True)
        finally:
            self.display.close()
            if self.fork_server is not None and self.fork_server is not self.request.fork_server:
                self.fork_server.close()

    def poll(self) -> None:
        """One round of looking at everything; waits a moment for something to happen."""
        self.handle_signals()
        try:
            fork_server = self.ensure_fork_server()
            while self.waiting and self.free and fork_server.ready():
                self.start(self.waiting.popleft(), fork_server)
            for ended in self.wait(fork_server):
                self.finish(self.running.pop(ended.worker.id), ended)
        except ForkServerLost as error:
            self.handle_lost_server(error)
        self.enforce_limits()
        self.show()

    def ensure_fork_server(self) -> ForkServer:
        if self.fork_server is None:
            self.fork_server_count += 1
            self.fork_server, self.prewarmed = self.prewarmed or ForkServer(self.allocation.threads), None
        return self.fork_server

    def wait(self, fork_server: ForkServer) -> list[WorkerExit]:
        """Time without an event goes into composing the next jobs, so that no slot waits for that."""
        for job in list(self.waiting)[: len(self.allocation.slots)]:
            if job.config is None:
                if ended := fork_server.wait(0.0):
                    return ended
                self.ensure_composed(job)
        if not self.running:
            fork_server.ready(POLL_S)
        return fork_server.wait(POLL_S)

    def ensure_composed(self, job: Job) -> bool:
        """False when the configuration cannot be composed: the row is over, with the reason."""
        if job.config is None:
            try:
                compose_job(job, self.request.loader, self.request.master)
            except Exception as error:
                if job in self.waiting:
                    self.waiting.remove(job)
                job.row.started_at = job.row.ended_at = self.clock()
                self.record_outcome(job, JobOutcome("failed", f"its configuration cannot be composed: {error}", transient=False))
                return False
        return True

    def start(self, job: Job, fork_server: ForkServer) -> None:
        """In the slot that has been free for longest. NurseryLost when there is nobody to start it."""
        if not self.ensure_composed(job):
            return
        assert job.config is not None
        assert job.folder is not None
        if needs_torchvision(job.config):
            fork_server.preload(["torchvision"])
        order = job_call.JobRequest(job.config, self.request.task, str(job.config.hydra.job.name), version_of_hydra())
        slot = self.free[0]
        try:
            job.child = fork_server.start(
                job_call.CALL, order, job.folder / CONSOLE_LOG, slot.environment, self.allocation.threads
            )
        except ForkServerLost:
            self.waiting.appendleft(job)
            raise
        self.free.popleft()
        now, row = self.clock(), job.row
        job.slot, job.progress, job.sent = slot, JobProgress(job.folder), set()
        job.timed_out, job.killed_at = False, math.inf
        job.deadline = now + 60 * self.settings.timeout_minutes if self.settings.timeout_minutes else math.inf
        row.state, row.device, row.started_at, row.step, row.remaining_s = "running", slot.device, now, 0, None
        self.running[job.child.id] = job
        self.display.job_started(row)

    def finish(self, job: Job, ended: WorkerExit) -> None:
        """Its process has ended."""
        assert job.slot is not None
        assert job.progress is not None
        self.free.append(job.slot)
        job.row.ended_at = self.clock()
        job.value = ended.value if isinstance(ended.value, float) else math.nan
        job.progress.update(job.row)
        ending = resolve_outcome(
            job, ended.exit_code, job.row.ended_at - job.row.started_at, self.settings.timeout_minutes, self.allocation.shared
        )
        again = ending.transient and not self.signals.count and job.row.attempt <= self.settings.retries
        if again:
            self.display.message(f"{job.row.number}: {job.row.label}: {ending.reason}; trying again")
            if job.folder is not None and job.folder.exists():
                archive(self.request.folder, job.folder)
            job.row.attempt += 1
            job.row.state = "waiting"
            self.waiting.append(job)
        else:
            self.record_outcome(job, ending)

    def record_outcome(self, job: Job, ending: JobOutcome) -> None:
        job.row.state, job.row.reason, job.row.remaining_s = ending.state, ending.reason, None
        self.display.job_ended(job.row, self.clock())
        if ending.state in ("failed", "interrupted") and self.request.on_error == "stop" and self.waiting:
            self.display.message(f"sweep.on_error=stop: {len(self.waiting)} runs are not started")
            self.cancel_waiting()

    def cancel_waiting(self) -> None:
        for job in self.waiting:
            job.row.state = "not started"
        self.waiting.clear()

    def handle_lost_server(self, error: ForkServerLost) -> None:
        """Whatever killed the process that starts jobs has ended them, too."""
        assert self.fork_server is not None
        self.fork_server.close()
        self.fork_server = None
        for job in self.running.values():
            self.finish(job, WorkerExit(job.child, -signal.SIGKILL))  # pyright: ignore[reportArgumentType]
        self.running.clear()
        self.display.message(str(error), "error")
        if self.fork_server_count >= MAX_FORK_SERVERS:
            raise error

    def handle_signals(self) -> None:
        """Nothing starts any more. After one signal running jobs are asked to save and end; after a second they are killed."""
        if self.handled_signals == self.signals.count or self.signals.first is None:
            return
        self.handled_signals = self.signals.count
        self.cancel_waiting()
        if self.handled_signals == 1:
            self.display.message("stopping: the running jobs save and end; Ctrl-C again stops them at once")
        for job in self.running.values():
            self.send(job, self.signals.first if self.handled_signals == 1 else signal.SIGKILL)

    def enforce_limits(self) -> None:
        now = self.clock()
        for job in self.running.values():
            if now >= job.deadline:
                job.deadline, job.killed_at, job.timed_out = math.inf, now + GRACE_S, True
                self.send(job, signal.SIGTERM)
            elif now >= job.killed_at:
                self.send(job, signal.SIGKILL)

    def send(self, job: Job, number: int) -> None:
        assert job.child is not None
        assert self.fork_server is not None
        job.sent.add(number)
        self.fork_server.signal(job.child, number)

    def show(self, always: bool = False) -> None:
        now = self.clock()
        if not always and now - self.shown_at < SHOWN_EVERY_S:
            return
        self.shown_at = now
        for job in self.running.values():
            if job.progress is not None:
                job.progress.update(job.row)
        self.display.update([job.row for job in self.jobs], len(self.allocation.slots), now)


def version_of_hydra() -> str | None:
    base = version.getbase()
    return None if base is None else str(base)


def describe_allocation(where: Allocation) -> str:
    """`2 at a time on the CPU, 1 thread each`."""
    count, threads = len(where.slots), "1 thread" if where.threads == 1 else f"{where.threads} threads"
    on = "on the CPU" if not where.gpus else f"on {where.gpus} GPU" + ("s" if where.gpus > 1 else "")
    return f"{count} at a time {on}, {threads} each"
