"""Position, speed and latest values of a run: the state behind every live view."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from train.sinks.contracts import RunInfo

DISPLAYED_TAGS = ("loss/train", "accuracy/train", "accuracy/val")
_WINDOW_S = 20.0
_SAMPLE_S = 0.5


class RunProgress:
    """Tracks the progress of a run; `step`, `epoch` and `values` (of the tags in DISPLAYED_TAGS) are the latest.

    Speed is measured over the last 20 s, evaluation included, so that the remaining time follows a change of speed and is right
    after a resume. The first step, which may compile, is not counted.
    """

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.step = 0
        self.epoch = 0.0
        self.values: dict[str, float] = {}
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Update the state; `now`: seconds of any monotonic clock.

        A late record of an earlier step updates the values but not the speed.
        """
        for tag in DISPLAYED_TAGS:
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
        """Training images per second; None while unknown."""
        (since, first), (until, last) = (self._samples[0], self._samples[-1]) if self._samples else ((0.0, 0), (0.0, 0))
        return (last - first) * self.info.batch_size / (until - since) if last > first else None

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds to the end of training; None while unknown."""
        speed = self.images_per_s
        return (self.info.total_steps - self.step) * self.info.batch_size / speed if speed else None
