"""How far a run is, how fast it goes and what it last measured: the state behind every live view."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from train.sinks.contracts import RunInfo

SHOWN = ("loss/train", "accuracy/train", "accuracy/val")
_WINDOW_S = 20.0
_SAMPLE_S = 0.5


class RunProgress:
    """Fed with every step; `step`, `epoch`, `values` (of the tags in SHOWN) are the latest.

    Speed is taken over the last 20 s, evaluation included, so that the time left follows a change of pace and is right
    after a resume; the first step, which may compile, counts for nothing.
    """

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.step = 0
        self.epoch = 0.0
        self.values: dict[str, float] = {}
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """`now`: seconds on any steady clock. A step before the latest, of which a record came late, says nothing of the pace."""
        for tag in SHOWN:
            if tag in values:
                self.values[tag] = values[tag]
        if step < self.step:
            return
        self.step, self.epoch = step, epoch
        samples = self._samples
        if not samples or now - samples[-1][0] >= _SAMPLE_S:
            samples.append((now, step))
            while len(samples) > 2 and samples[1][0] <= now - _WINDOW_S:
                samples.popleft()

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.info.total_steps) if self.info.total_steps else 1.0

    @property
    def images_per_s(self) -> float | None:
        """None while it is not known."""
        (since, first), (until, last) = (self._samples[0], self._samples[-1]) if self._samples else ((0.0, 0), (0.0, 0))
        return (last - first) * self.info.batch_size / (until - since) if last > first else None

    @property
    def remaining_s(self) -> float | None:
        """None while it is not known."""
        speed = self.images_per_s
        return (self.info.total_steps - self.step) * self.info.batch_size / speed if speed else None
