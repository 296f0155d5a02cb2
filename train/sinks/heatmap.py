"""The sink that draws heat maps of layer statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from train.figures.columns import Columns, LearningRate
from train.sinks.contracts import Record, RunInfo, Sink, Summary
from train.store.files import FIGURES_FOLDER
from train.tags import STATISTICS, split

HEAT_MAPS = {statistic.name: statistic for statistic in STATISTICS if statistic.heat_map}
BREAKING = {"loss", *(statistic.name for statistic in STATISTICS if statistic.breaks)}
"""A non-finite value of these is marked in every map."""


class HeatMapSink(Sink):
    """Collects layer statistics from the records and draws heat maps of them.

    Each map is written to `figures/heatmap_<statistic>.png` in the run folder and passed to `target` as the image
    `heatmap/<statistic>`. Maps are drawn at the end of the run and before that at most every `every_s` seconds, so rarely that
    drawing takes less than a hundredth of the time. `clock`: seconds of a monotonic clock. A map with a single column is not
    drawn, since it would say no more than the table of step 0.
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
        self._folder = info.folder / FIGURES_FOLDER
        self._title = info.name
        self._due_at = self._clock() + self._every_s

    def record(self, record: Record) -> None:
        self.restore(record)
        if self._clock() >= self._due_at:
            self._draw()

    def restore(self, record: Record) -> None:
        rows: dict[str, dict[str, float]] = {statistic: {} for statistic in self._columns}
        for tag, value in record.values.items():
            statistic, layer = split(tag)
            if statistic in rows:
                rows[statistic][layer] = value
            if self._broken_step is None and statistic in BREAKING and not math.isfinite(value):
                self._broken_step = record.step
            if tag == "lr":
                self._lr.add(record.step, value)
        for statistic, columns in self._columns.items():
            if columns.layers.keys() <= rows[statistic].keys():  # a column of a few layers only would leave gaps in all others
                for layer, value in rows[statistic].items():
                    columns.add(record.step, layer, value)

    def finish(self, summary: Summary) -> None:  # noqa: ARG002
        self._draw()

    def _draw(self) -> None:
        drawable = {statistic: columns for statistic, columns in self._columns.items() if len(columns.steps) > 1}
        if self._folder is None or not drawable:
            return
        from train.figures.heat_map import draw  # imports matplotlib

        started = self._clock()
        pictures = {
            statistic: draw(HEAT_MAPS[statistic], columns, self._lr, self._broken_step, self._title)
            for statistic, columns in drawable.items()
        }
        self._folder.mkdir(exist_ok=True)
        for statistic, png in pictures.items():
            (self._folder / f"heatmap_{statistic}.png").write_bytes(png)
        for statistic, png in pictures.items():
            self._target.image(f"heatmap/{statistic}", drawable[statistic].steps[-1], png)
        now = self._clock()
        self._due_at = now + max(self._every_s, 100 * (now - started))
