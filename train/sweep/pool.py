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
from train.sweep.board import Board, board_for
from train.sweep.devices import Places, PoolSettings, places
from train.sweep.ending import Ending, settle
from train.sweep.jobs import CONSOLE, Job, compose, needs_torchvision
from train.sweep.nursery import Ended, Nursery, NurseryLost
from train.sweep.reuse import archive
from train.sweep.rows import Progress, Row, labels

TICK_S = 0.2
SHOWN_EVERY_S = 0.5
GRACE_S = 10.0
"""From asking a job that exceeds its time limit to end, to killing it: it may want to save."""
NURSERIES = 3
"""A process that starts jobs is started again when something kills it; not forever."""


@dataclass(frozen=True)
class Launch:
    """What Hydra hands to a launcher. `task`: the task function as `module:function`; `nursery`: one that runs already, and that
    is closed by who made it."""

    loader: ConfigLoader
    master: DictConfig
    task: str
    settings: PoolSettings
    nursery: Nursery | None = None

    @property
    def on_error(self) -> Literal["continue", "stop"]:
        return OmegaConf.select(self.master, "sweep.on_error", default="continue")

    @property
    def folder(self) -> Path:
        return Path(str(self.master.hydra.sweep.dir)).absolute()


def launch(request: Launch, job_overrides: Sequence[Sequence[str]], initial_index: int) -> list[JobReturn]:
    """Run all; one JobReturn per job, in order, also for those that failed or did not start. Interrupted when a signal ended the
    sweep; UsageError when a setting of the launcher does not fit the machine."""
    if not job_overrides:
        return []
    device = str(OmegaConf.select(request.master, "trainer.device", default="auto"))
    where = places(request.settings, len(job_overrides), device)
    names = labels(job_overrides)
    jobs = [
        Job(initial_index + place, list(overrides), Row(initial_index + place + 1, names[place]))
        for place, overrides in enumerate(job_overrides)
    ]
    pool = Pool(request, jobs, where, board_for(sys.stdout))
    pool.run()
    if pool.signals.first is not None:
        raise Interrupted(pool.signals.first)
    return [job.told() for job in jobs]


class Signals:
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
        self, request: Launch, jobs: Sequence[Job], where: Places, board: Board, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.request, self.settings = request, request.settings
        self.jobs, self.where, self.board, self.clock = jobs, where, board, clock
        self.waiting = deque(jobs)
        self.running: dict[int, Job] = {}
        self.free = deque(where.slots)
        self.signals = Signals()
        self.heard = 0
        self.nurseries = 0
        self.shown = -math.inf
        self.nursery: Nursery | None = None
        self.warm = request.nursery

    def run(self) -> None:
        """Until no job runs and none is to start."""
        self.board.open(self.request.folder, [job.row for job in self.jobs], describe(self.where))
        try:
            with self.signals.listening():
                while self.waiting or self.running:
                    self.turn()
            self.show(always=True)
        finally:
            self.board.close()
            if self.nursery is not None and self.nursery is not self.request.nursery:
                self.nursery.close()

    def turn(self) -> None:
        """One round of looking at everything; waits a moment for something to happen."""
        self.obey_signals()
        try:
            nursery = self.living_nursery()
            while self.waiting and self.free and nursery.ready():
                self.start(self.waiting.popleft(), nursery)
            for ended in self.wait(nursery):
                self.finish(self.running.pop(ended.child.id), ended)
        except NurseryLost as error:
            self.lost(error)
        self.enforce_limits()
        self.show()

    def living_nursery(self) -> Nursery:
        if self.nursery is None:
            self.nurseries += 1
            self.nursery, self.warm = self.warm or Nursery(self.where.threads), None
        return self.nursery

    def wait(self, nursery: Nursery) -> list[Ended]:
        """Time without an event goes into composing the next jobs, so that no slot waits for that."""
        for job in list(self.waiting)[: len(self.where.slots)]:
            if job.config is None:
                if ended := nursery.wait(0.0):
                    return ended
                self.composed(job)
        if not self.running:
            nursery.ready(TICK_S)
        return nursery.wait(TICK_S)

    def composed(self, job: Job) -> bool:
        """False when the configuration cannot be composed: the row is over, with the reason."""
        if job.config is None:
            try:
                compose(job, self.request.loader, self.request.master)
            except Exception as error:
                if job in self.waiting:
                    self.waiting.remove(job)
                job.row.began = job.row.ended = self.clock()
                self.over(job, Ending("failed", f"its configuration cannot be composed: {error}", transient=False))
                return False
        return True

    def start(self, job: Job, nursery: Nursery) -> None:
        """In the slot that has been free for longest. NurseryLost when there is nobody to start it."""
        if not self.composed(job):
            return
        assert job.config is not None
        assert job.folder is not None
        if needs_torchvision(job.config):
            nursery.preload(["torchvision"])
        order = job_call.JobOrder(job.config, self.request.task, str(job.config.hydra.job.name), version_of_hydra())
        slot = self.free[0]
        try:
            job.child = nursery.start(job_call.CALL, order, job.folder / CONSOLE, slot.environment, self.where.threads)
        except NurseryLost:
            self.waiting.appendleft(job)
            raise
        self.free.popleft()
        now, row = self.clock(), job.row
        job.slot, job.progress, job.sent = slot, Progress(job.folder), set()
        job.timed_out, job.killed_at = False, math.inf
        job.deadline = now + 60 * self.settings.timeout_minutes if self.settings.timeout_minutes else math.inf
        row.state, row.device, row.began, row.step, row.left_s = "running", slot.device, now, 0, None
        self.running[job.child.id] = job
        self.board.began(row)

    def finish(self, job: Job, ended: Ended) -> None:
        """Its process has ended."""
        assert job.slot is not None
        assert job.progress is not None
        self.free.append(job.slot)
        job.row.ended = self.clock()
        job.value = ended.value if isinstance(ended.value, float) else math.nan
        job.progress.look(job.row)
        ending = settle(job, ended.exit_code, job.row.ended - job.row.began, self.settings.timeout_minutes, self.where.shared)
        again = ending.transient and not self.signals.count and job.row.attempt <= self.settings.retries
        if again:
            self.board.message(f"{job.row.number}: {job.row.label}: {ending.reason}; trying again")
            if job.folder is not None and job.folder.exists():
                archive(self.request.folder, job.folder)
            job.row.attempt += 1
            job.row.state = "waiting"
            self.waiting.append(job)
        else:
            self.over(job, ending)

    def over(self, job: Job, ending: Ending) -> None:
        job.row.state, job.row.reason, job.row.left_s = ending.state, ending.reason, None
        self.board.ended(job.row, self.clock())
        if ending.state in ("failed", "interrupted") and self.request.on_error == "stop" and self.waiting:
            self.board.message(f"sweep.on_error=stop: {len(self.waiting)} runs are not started")
            self.start_no_more()

    def start_no_more(self) -> None:
        for job in self.waiting:
            job.row.state = "not started"
        self.waiting.clear()

    def lost(self, error: NurseryLost) -> None:
        """Whatever killed the process that starts jobs has ended them, too."""
        assert self.nursery is not None
        self.nursery.close()
        self.nursery = None
        for job in self.running.values():
            self.finish(job, Ended(job.child, -signal.SIGKILL))  # pyright: ignore[reportArgumentType]
        self.running.clear()
        self.board.message(str(error), "error")
        if self.nurseries >= NURSERIES:
            raise error

    def obey_signals(self) -> None:
        """Nothing starts any more. After one signal running jobs are asked to save and end; after a second they are killed."""
        if self.heard == self.signals.count or self.signals.first is None:
            return
        self.heard = self.signals.count
        self.start_no_more()
        if self.heard == 1:
            self.board.message("stopping: the running jobs save and end; Ctrl-C again stops them at once")
        for job in self.running.values():
            self.send(job, self.signals.first if self.heard == 1 else signal.SIGKILL)

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
        assert self.nursery is not None
        job.sent.add(number)
        self.nursery.signal(job.child, number)

    def show(self, always: bool = False) -> None:
        now = self.clock()
        if not always and now - self.shown < SHOWN_EVERY_S:
            return
        self.shown = now
        for job in self.running.values():
            if job.progress is not None:
                job.progress.look(job.row)
        self.board.update([job.row for job in self.jobs], len(self.where.slots), now)


def version_of_hydra() -> str | None:
    base = version.getbase()
    return None if base is None else str(base)


def describe(where: Places) -> str:
    """`2 at a time on the CPU, 1 thread each`."""
    count, threads = len(where.slots), "1 thread" if where.threads == 1 else f"{where.threads} threads"
    on = "on the CPU" if not where.gpus else f"on {where.gpus} GPU" + ("s" if where.gpus > 1 else "")
    return f"{count} at a time {on}, {threads} each"
