"""How long a sweep will take: a few real steps of some of its arms, as many at once as its jobs will be.

Left out is what a run does after its last step, besides the look at the test split: figures and files, a second or so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.sweep.devices import Slot
from train.sweep.fork_server import ForkServer

MOST_ARMS = 8
"""Arms that are timed; the others count as their mean."""
CALL = "train.run.rehearsal:time_run"


@dataclass(frozen=True)
class Timing:
    """As `train.run.rehearsal.time_run` measures it."""

    start_s: float
    step_s: float
    evaluate_s: float
    steps: int

    @property
    def run_s(self) -> float:
        return self.start_s + self.steps * self.step_s + self.evaluate_s


def time_arms(
    configs: Sequence[Mapping[str, Any]], trust: tuple[str, ...], fork_server: ForkServer, slots: Sequence[Slot]
) -> list[Timing]:
    """Of up to MOST_ARMS of the arms, evenly chosen; fewer where one could not be timed."""
    stride = max(1, -(-len(configs) // MOST_ARMS))
    waiting = [dict(config) for config in configs[::stride]]
    free = list(slots)
    held: dict[int, Slot] = {}
    found: list[Timing] = []
    while waiting or held:
        while waiting and free:
            slot = free.pop()
            held[fork_server.start(CALL, (waiting.pop(0), trust), environment=slot.environment).id] = slot
        for ended in fork_server.wait():
            free.append(held.pop(ended.worker.id))
            if isinstance(ended.value, dict):
                found.append(Timing(**ended.value))
    return found


def estimate_s(timed: Sequence[Timing], runs: int, at_once: int) -> float | None:
    """Wall time of `runs` runs; None when nothing could be timed."""
    if not timed:
        return None
    mean = sum(timing.run_s for timing in timed) / len(timed)
    return mean * -(-runs // max(1, at_once))
