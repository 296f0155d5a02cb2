"""The sink that draws heat maps of layer statistics, and of the distributions of the activations, over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from train.columns import Columns, Distributions, LearningRate
from train.sinks import figures
from train.sinks.contracts import Record, RunInfo, Sink, Summary
from train.store.files import EVENTS
from train.tags import STATISTICS, Statistic, split

HEAT_MAPS = {statistic.name: statistic for statistic in STATISTICS if statistic.heat_map}
BREAKING = {"loss", *(statistic.name for statistic in STATISTICS if statistic.breaks)}
"""A non-finite value of these is marked in every map."""


class HeatMapSink(Sink):
    """Collects layer statistics from the records and draws heat maps of them at the end of the run.

    Each map is written to `figures/heatmap_<statistic>.png` in the run folder and passed to `target` as the image
    `heatmap/<statistic>`. A map with a single column is not drawn, since it would say no more than the table of step 0.
    Histograms make `distribution/activations`; those of a resumed run are read from its event file.
    """

    name = "the heat maps"

    def __init__(self, target: Sink) -> None:
        self._target = target
        self._folder: Path | None = None
        self._title = ""
        self._columns = {statistic: Columns() for statistic in HEAT_MAPS}
        self._lr = LearningRate()
        self._distributions: dict[str, Distributions] = {}
        self._broken_step: int | None = None

    def start(self, info: RunInfo) -> None:
        self._folder = info.folder
        self._title = info.name
        if info.offsets and EVENTS in info.offsets:
            from train.sinks.tensorboard import stored_histograms  # imports TensorBoard

            for tag, step, edges, counts in stored_histograms(info):
                self.histogram(tag, step, edges, counts)

    def record(self, record: Record) -> None:
        self.restore(record)

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

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        self._distributions.setdefault(split(tag)[1], Distributions()).add(step, edges, counts)

    def finish(self, summary: Summary) -> None:
        drawable = {statistic: columns for statistic, columns in self._columns.items() if len(columns.steps) > 1}
        maps = [self._figure(statistic, columns) for statistic, columns in drawable.items()]
        if any(len(layer.steps) > 1 for layer in self._distributions.values()):
            draw = partial(_draw_distributions, self._distributions, self._title)
            maps.append(figures.Figure("distribution/activations", summary.steps, draw))
        if self._folder is not None and maps:
            figures.draw(figures.Drawing(self._folder, maps), self._target)

    def _figure(self, statistic: str, columns: Columns) -> figures.Figure:
        draw = partial(_draw, HEAT_MAPS[statistic], columns, self._lr, self._broken_step, self._title)
        return figures.Figure(f"heatmap/{statistic}", columns.steps[-1], draw)


def _draw(statistic: Statistic, columns: Columns, lr: LearningRate, broken_step: int | None, title: str) -> bytes:
    from train.figures.heat_map import draw  # imports matplotlib

    return draw(statistic, columns, lr, broken_step, title)


def _draw_distributions(layers: Mapping[str, Distributions], title: str) -> bytes:
    from train.figures.distribution import draw_distributions  # imports matplotlib

    return draw_distributions(layers, title)
