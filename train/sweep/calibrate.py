"""Estimate of a sweep's duration from a few real steps of some arms, run in parallel like its jobs.

Figures and files after a run's last step (a second or so) are not included; the evaluation on the test split is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.run.trust import trusted
from train.sweep.devices import Slot
from train.sweep.fork_server import ForkServer, Worker

MAX_TIMED_ARMS = 8
"""Further arms are estimated by the mean of the timed ones."""
CALL = "train.run.dry_run:time_run"


@dataclass(frozen=True)
class Timing:
    """Times of one arm as `train.run.dry_run.time_run` measures them; `steps`: of the whole run."""

    start_s: float
    step_s: float
    evaluate_s: float
    steps: int

    @property
    def run_s(self) -> float:
        return self.start_s + self.steps * self.step_s + self.evaluate_s


def time_arms(configs: Sequence[Mapping[str, Any]], fork_server: ForkServer, slots: Sequence[Slot]) -> list[Timing]:
    """Time up to MAX_TIMED_ARMS of the arms, evenly spaced. Arms that cannot be timed are omitted."""
    stride = max(1, -(-len(configs) // MAX_TIMED_ARMS))
    waiting = [dict(config) for config in configs[::stride]]
    free = list(slots)
    used: dict[Worker, Slot] = {}
    timings: list[Timing] = []
    while waiting or used:
        while waiting and free:
            slot = free.pop()
            used[fork_server.start(CALL, (waiting.pop(0), trusted()), environment=slot.environment)] = slot
        for worker in fork_server.wait():
            free.append(used.pop(worker))
            if isinstance(worker.value, dict):
                timings.append(Timing(**worker.value))
    return timings


def estimate_s(timed: Sequence[Timing], runs: int, at_once: int) -> float | None:
    """Estimate the wall time of `runs` runs in seconds; None when nothing could be timed."""
    if not timed:
        return None
    mean = sum(timing.run_s for timing in timed) / len(timed)
    return mean * -(-runs // max(1, at_once))
