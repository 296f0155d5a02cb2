"""The processes that draw the figures of runs that have ended, without the device of the run."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from train.errors import RunError
from train.store.files import CONSOLE_LOG
from train.sweep.devices import Allocation, Slot
from train.sweep.fork_server import KILL_S, ForkServer, Worker
from train.sweep.job import DRAW
from train.sweep.jobs import Job

POLL_S = 0.2
LIMIT_S = 120.0
"""Time after which such a process is killed. The figures are lost then; of the run, nothing is."""


@dataclass
class Drawings:
    """The processes of a pool that draw. `workers`: worker -> the job, and the time when the worker is killed."""

    fork_server: ForkServer
    allocation: Allocation
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    workers: dict[Worker, tuple[Job, float]] = field(default_factory=dict)

    def start(self, job: Job, figures: bytes) -> bool:
        """Start to draw the figures of a job. Return whether that occupies the job's slot, until `finish` returns it.

        A GPU is free for the next job; processors are what the slots of a CPU share.
        """
        if not figures:
            return False
        assert job.folder is not None
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        try:
            worker = self.fork_server.start(DRAW, figures, job.folder / CONSOLE_LOG, hidden, self.allocation.threads)
        except (RunError, OSError) as error:
            self.say(f"{job.row.number}: {job.row.label}: its figures cannot be drawn: {error}")
            return False
        self.workers[worker] = job, self.clock() + LIMIT_S
        return not self.allocation.gpus

    def finish(self, worker: Worker) -> Slot | None:
        """Return the slot that a worker which has exited occupied, None if none."""
        job, _ = self.workers.pop(worker)
        if worker.exit_code:
            self.say(f"{job.row.number}: {job.row.label}: its figures were not drawn; see {job.folder}/{CONSOLE_LOG}")
        return None if self.allocation.gpus else job.slot

    def complete(self) -> None:
        """Wait until all that was started is drawn, or killed. Another launch may have waited for some of these workers."""
        latest = max((limit for _, limit in self.workers.values()), default=0.0) + KILL_S
        while any(worker.exit_code is None for worker in self.workers) and self.clock() < latest:
            self.fork_server.wait(POLL_S)
            self.kill(self.clock())
        for worker in list(self.workers):
            self.finish(worker)

    def kill(self, now: float = math.inf) -> None:
        """Kill the workers whose time is up at `now`."""
        for worker, (_, limit) in self.workers.items():
            if now >= limit:
                worker.signal(signal.SIGKILL)
