"""A sink that explains a run: layer table and verdict after step 0, a figure of it at the end, diagnosis at a bad end.

It works from the run's records, and from theory for models that theory covers.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.columns import Columns
from train.config import ThresholdSettings
from train.explain.anomalies import AnomalySearch
from train.explain.diagnosis import Diagnosis, Losses, Switches, diagnose, suggest
from train.explain.layer_table import render_table
from train.explain.verdict import MEANING, LayerRow, Verdict, describe, judge, layer_rows
from train.observe.contracts import Expected, LayerInfo
from train.sinks import figures
from train.sinks.contracts import TEXTS, Sink, Summary
from train.sinks.figures import Figure
from train.store.metrics import Record, encode_float
from train.tags import join, layers_of

log = logging.getLogger("train")
FIGURE, PROFILE, BATCH = "signal_at_initialisation", "profile/activation_std", "first_batch"
MOST_PROFILES = 6
"""Steps of the profile: the first, the last, and some between."""
PLAIN_WIDTH = 100
"""Width of the table, in columns, when the output is not a terminal."""
STORED_WIDTH = 120
"""Width of the table of all layers that TensorBoard shows."""


@dataclass(frozen=True)
class NetworkInfo:
    """What is known about the network before its first train step."""

    layers: Sequence[LayerInfo]
    expected: Sequence[Expected]
    classes: int
    switches: Switches

    def expected_stds(self) -> dict[str, dict[str, float | str | None]]:
        """Return layer -> the std of its output and of the gradient there in theory, for JSON; None where that says nothing."""
        values = {layer.name: {"std": layer.std, "gradient_std": layer.gradient_std} for layer in self.expected}
        return {
            name: {key: None if value is None else encode_float(value) for key, value in stds.items()}
            for name, stds in values.items()
        }


@dataclass(frozen=True)
class FirstBatch:
    """The first images of the first batch, without pre-processing, [N, C, H, W]: `plain`, and `augmented` as for the network."""

    plain: NDArray[np.float32]
    augmented: NDArray[np.float32]


class ExplanationSink(Sink):
    """A sink that writes the explanation to the sink `out`. `batch`: of which a figure is drawn, too.

    After step 0: the layer table and the verdict. At the end: the signal figure, and for a run that diverged or stayed at chance
    the diagnosis. It is made once the network exists, after the start of the other sinks. `folder`: of the run.
    """

    name = "the explanation"

    def __init__(
        self,
        out: Sink,
        folder: Path,
        title: str,
        network: NetworkInfo,
        thresholds: ThresholdSettings,
        batch: FirstBatch | None = None,
    ) -> None:
        self.out = out
        self.folder = folder
        self.title = title
        self.network = network
        self.thresholds = thresholds
        self.verdict: Verdict | None = None
        self.diagnosis: Diagnosis | None = None
        self._batch = batch
        self._initial: Sequence[LayerRow] = ()
        self._profile = Columns()
        self._losses = Losses()
        self._anomalies = AnomalySearch(thresholds)

    def record(self, record: Record) -> None:
        first = self.verdict is None
        self.restore(record)
        if first and self.verdict is not None:
            self._explain_start(self.verdict)

    def restore(self, record: Record) -> None:
        self._losses.add(record)
        self._anomalies.add(record)
        layers = layers_of("activation_std", record.values)
        if self._profile.layers.keys() <= set(layers):  # of a few layers, nothing can be seen against depth
            for layer in layers:
                self._profile.add(record.step, layer, record.values[join("activation_std", layer)])
        if record.step == 0 and self.verdict is None and layers:
            self._initial = layer_rows(record.values, self.network.layers)
            self.verdict = judge(self._initial, self.thresholds, self.network.expected)

    def finish(self, summary: Summary) -> None:
        if summary.status == "diverged" or self._losses.at_chance(self.network.classes):
            self._diagnose(summary)
        if self._initial:
            self._draw()

    def _diagnose(self, summary: Summary) -> None:
        network, reason = self.network, summary.reason if summary.status == "diverged" else ""
        self.diagnosis = diagnose(
            self._losses, self._anomalies, network.classes, network.switches, self.thresholds, network.layers, reason
        )
        if self.diagnosis is not None:
            self.out.message(self.diagnosis.text, "warning")
            self.out.text(TEXTS["diagnosis"], summary.steps, self.diagnosis.text)

    def _explain_start(self, verdict: Verdict) -> None:
        # sys.__stdout__, as rich's live display replaces sys.stdout by a proxy that has no encoding
        unicode = sys.__stdout__ is not None and sys.__stdout__.encoding.lower().startswith("utf")
        width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns - 1
        lines = ["", *(line.text for line in render_table(self._initial, width, self.thresholds, unicode)), ""]
        self.out.message("\n".join(lines))
        self.out.message(verdict.sentence, "info" if verdict.kind == "healthy" else "warning")
        if verdict.kind != "healthy":
            self.out.message(f"meaning: {MEANING[verdict.kind]}{self._remedy(verdict)}")
        self.out.message(f"({describe(self.thresholds)})")
        self.out.text(TEXTS["verdict"], 0, f"{verdict.sentence}\n({describe(self.thresholds)})")
        table = render_table(self._initial, STORED_WIDTH, self.thresholds, most=len(self._initial))
        self.out.text(TEXTS["layers"], 0, "\n".join(line.text for line in table))

    def _remedy(self, verdict: Verdict) -> str:
        if verdict.kind == "broken":
            return ""
        return f". Common remedies: {', '.join(suggest('cannot_learn', 'initial', verdict.statistic, self.network.switches))}"

    def _draw(self) -> None:
        try:
            signal = Figure(FIGURE, 0, partial(_draw_signal, self._initial, self.network.expected, self.title))
            steps = self._profile.steps
            profile = Figure(PROFILE, steps[-1], partial(_draw_profile, self._profile, self.network.expected, self.title))
            batch = [Figure(BATCH, 0, partial(_draw_batch, self._batch, self.title))] if self._batch else []
            figures.draw(figures.Drawing(self.folder, [signal, profile, *batch]), self.out)
        except Exception as error:  # a failing figure must not cost the text
            log.warning("could not draw the signal figure", exc_info=error)


def _draw_signal(rows: Sequence[LayerRow], expected: Sequence[Expected], title: str) -> bytes:
    from train.figures.signal import Point, draw_signal  # imports matplotlib

    theory = {layer.name: layer for layer in expected}
    points = []
    for row in rows:
        layer = theory.get(row.layer) or Expected(row.layer, None, None, None)
        gap = layer.forward_gap or layer.backward_gap
        points.append(Point(row.layer, row.weighted, row.std, row.gradient_std, layer.std, layer.gradient_std, gap))
    return draw_signal(points, title)


def _draw_profile(columns: Columns, expected: Sequence[Expected], title: str) -> bytes:
    from train.figures.profile import draw_profile  # imports matplotlib

    theory = {layer.name: layer.std for layer in expected}
    count = min(MOST_PROFILES, len(columns.steps))
    places = sorted({round(i * (len(columns.steps) - 1) / max(count - 1, 1)) for i in range(count)})
    profiles = [(columns.steps[i], [math.nan if value is None else value for value in columns.values[i]]) for i in places]
    return draw_profile(list(columns.layers), profiles, [theory.get(layer) for layer in columns.layers], title)


def _draw_batch(batch: FirstBatch, title: str) -> bytes:
    from train.figures.batch import draw_batch  # imports matplotlib

    return draw_batch(batch.plain, batch.augmented, title)
