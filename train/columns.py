"""Data of the heat maps: every layer at every recorded step, one map per statistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_COLUMNS = 500
MAX_JUMPS = 8
JUMP = 1.05
"""A learning rate has jumped if it is this many times larger or smaller than the previous recorded one."""


@dataclass
class Columns:
    """The values of one statistic, thinned out to at most `MAX_COLUMNS` steps.

    Of the recorded steps it keeps the first, every n-th, the last, and the first with a non-finite value. `values[i][j]` belongs
    to `steps[i]` and layer j; earlier columns are shorter where layers appeared later.
    """

    layers: dict[str, int] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)
    broken_step: int | None = None
    _every: int = 1
    _last_index: int = -1

    def add(self, step: int, layer: str, value: float) -> None:
        """Add one value. Steps must not decrease."""
        if not self.steps or step != self.steps[-1]:
            self._new_column(step)
        row = self.layers.setdefault(layer, len(self.layers))
        column = self.values[-1]
        column.extend([None] * (row + 1 - len(column)))
        column[row] = value
        if self.broken_step is None and not math.isfinite(value):
            self.broken_step = step

    def _new_column(self, step: int) -> None:
        """Start a column; the previous one was kept as the last and is now dropped unless thinning keeps it."""
        if self._last_index % self._every and self.steps[-1] != self.broken_step:
            del self.steps[-1], self.values[-1]
        if len(self.steps) >= MAX_COLUMNS:
            self._every *= 2
            kept = [i for i, recorded in enumerate(self.steps) if i % 2 == 0 or recorded == self.broken_step]
            self.steps = [self.steps[i] for i in kept]
            self.values = [self.values[i] for i in kept]
        self._last_index += 1
        self.steps.append(step)
        self.values.append([])


MAX_HISTOGRAMS = 200
"""Of a layer; of more, every second is dropped."""


@dataclass
class Distributions:
    """Histograms of one layer over steps, thinned out evenly: of each the edges of its equal bins, and their counts."""

    steps: list[int] = field(default_factory=list)
    ranges: list[tuple[float, float]] = field(default_factory=list)
    counts: list[Sequence[float]] = field(default_factory=list)
    _every: int = 1
    _seen: int = 0

    def add(self, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        """Add a histogram. One without finite values is left out."""
        self._seen += 1
        if (self._seen - 1) % self._every or not math.isfinite(edges[0]) or not math.isfinite(edges[-1]):
            return
        if len(self.steps) >= MAX_HISTOGRAMS:
            self._every *= 2
            del self.steps[1::2], self.ranges[1::2], self.counts[1::2]
        self.steps.append(step)
        self.ranges.append((edges[0], edges[-1]))
        self.counts.append(counts)


@dataclass
class LearningRate:
    """The learning rate over steps, thinned out, and the first few jumps: a schedule with many jumps is a curve."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)
    _changes: int = -1
    _last: float = math.nan

    def add(self, step: int, lr: float) -> None:
        low, high = sorted((lr, self._last))
        if high > JUMP * low and len(self.jumps) <= MAX_JUMPS:
            self.jumps.append(step)
        self._last = lr
        self._changes += 1
        if len(self.steps) >= 2 * MAX_COLUMNS:
            del self.steps[1::2], self.values[1::2]
        self.steps.append(step)
        self.values.append(lr)

    @property
    def stands_out(self) -> bool:
        """Whether the jumps are few enough to mark each, and exceptional.

        A smooth curve with few records appears to jump at every record.
        """
        return 0 < len(self.jumps) <= MAX_JUMPS and (len(self.jumps) < 3 or 2 * len(self.jumps) <= self._changes)
