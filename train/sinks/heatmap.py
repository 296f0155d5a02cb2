"""Every layer at every recorded step, one picture per statistic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from train.sinks.contracts import Record, RunInfo, Sink, Summary

HEAT_MAPS = {
    "activation_std": "std of the activations",
    "gradient_std": "std of the gradients at the outputs",
    "update_ratio": "update ratio |w after - w before| / |w before|",
    "activation_dead": "share of dead channels",
}
"""Statistic -> what its heat map is called. The scale is logarithmic; for a share it is a square root's, from 0 to 1."""

SHARES = frozenset({"activation_dead", "activation_zero", "activation_saturated"})

BREAKING = frozenset({"activation_std", "gradient_std", "loss"})
"""A value of these that is not finite is marked in every map. (An update ratio is infinite where a weight starts at zero.)"""

MAX_COLUMNS = 500
MAX_JUMPS = 8
JUMP = 1.05
"""A learning rate this many times larger or smaller than the one recorded before has jumped."""


@dataclass
class Columns:
    """What one statistic has been, thinned out to at most `MAX_COLUMNS` steps: of the recorded ones the first, every n-th, the
    last, and the first with a value that is not finite. `values[i][j]` belongs to `steps[i]` and to the layer j; layers that
    appeared later are missing at the end of earlier columns."""

    layers: dict[str, int] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)
    broken_step: int | None = None
    _every: int = 1
    _seen: int = -1

    def add(self, step: int, layer: str, value: float) -> None:
        """Steps do not go down."""
        if not self.steps or step != self.steps[-1]:
            self._new_column(step)
        row = self.layers.setdefault(layer, len(self.layers))
        column = self.values[-1]
        column.extend([None] * (row + 1 - len(column)))
        column[row] = value
        if self.broken_step is None and not math.isfinite(value):
            self.broken_step = step

    def _new_column(self, step: int) -> None:
        """The last column is always kept, until the next one comes and it is none of those to keep."""
        if self._seen % self._every and self.steps[-1] != self.broken_step:
            del self.steps[-1], self.values[-1]
        if len(self.steps) >= MAX_COLUMNS:
            self._every *= 2
            kept = [i for i, at in enumerate(self.steps) if i % 2 == 0 or at == self.broken_step]
            self.steps = [self.steps[i] for i in kept]
            self.values = [self.values[i] for i in kept]
        self._seen += 1
        self.steps.append(step)
        self.values.append([])


@dataclass
class LearningRate:
    """Its course, thinned out, and the steps at which it jumped (the first few: a schedule with many is a curve)."""

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
        """Whether the jumps are few enough to be marked one by one, and exceptions: a smooth course that is recorded a few times
        only seems to jump every time."""
        return 0 < len(self.jumps) <= MAX_JUMPS and (len(self.jumps) < 3 or 2 * len(self.jumps) <= self._changes)


class HeatMapSink(Sink):
    """Collects what the records say of each layer, draws it in `figures/heatmap_<statistic>.png` of the run folder and shows it
    to `target` as the image `heatmap/<statistic>`.

    Drawn at the end, and before it at most every `every_s` seconds and so seldom that drawing takes less than a hundredth of
    the time. `clock`: seconds on a steady clock. A map of one column would say no more than the table of step 0: none is drawn.
    """

    name = "the heat maps"

    def __init__(self, target: Sink, every_s: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._every_s = every_s
        self._clock = clock
        self._due_at = math.inf
        self._folder: Path | None = None
        self._title = ""
        self._columns = {statistic: Columns() for statistic in HEAT_MAPS}
        self._lr = LearningRate()
        self._broken_step: int | None = None

    def start(self, info: RunInfo) -> None:
        self._folder = info.folder / "figures"
        self._title = info.name
        self._due_at = self._clock() + self._every_s

    def record(self, record: Record) -> None:
        self.replay(record)
        if self._clock() >= self._due_at:
            self._draw()

    def replay(self, record: Record) -> None:
        rows: dict[str, dict[str, float]] = {statistic: {} for statistic in self._columns}
        for tag, value in record.values.items():
            statistic, _, layer = tag.partition("/")
            if statistic in rows:
                rows[statistic][layer] = value
            if self._broken_step is None and statistic in BREAKING and not math.isfinite(value):
                self._broken_step = record.step
            if tag == "lr":
                self._lr.add(record.step, value)
        for statistic, columns in self._columns.items():
            if columns.layers.keys() <= rows[statistic].keys():  # a column of a few layers only would be a gap in all others
                for layer, value in rows[statistic].items():
                    columns.add(record.step, layer, value)

    def finish(self, summary: Summary) -> None:  # noqa: ARG002
        self._draw()

    def _draw(self) -> None:
        drawable = {statistic: columns for statistic, columns in self._columns.items() if len(columns.steps) > 1}
        if self._folder is None or not drawable:
            return
        from train.sinks.heatmap_figure import draw  # imports matplotlib

        began = self._clock()
        pictures = {
            statistic: draw(statistic, columns, self._lr, self._broken_step, self._title)
            for statistic, columns in drawable.items()
        }
        self._folder.mkdir(exist_ok=True)
        for statistic, png in pictures.items():
            (self._folder / f"heatmap_{statistic}.png").write_bytes(png)
        for statistic, png in pictures.items():
            self._target.image(f"heatmap/{statistic}", drawable[statistic].steps[-1], png)
        now = self._clock()
        self._due_at = now + max(self._every_s, 100 * (now - began))
