"""A sink that explains a run: layer table, verdict and figure after step 0, diagnosis at a bad end.

It works from the run's records, and from theory for models that theory covers.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.config import ThresholdSettings
from train.explain.anomalies import AnomalySearch
from train.explain.diagnosis import Diagnosis, Losses, Switches, diagnose, suggest
from train.explain.layer_table import render_table
from train.explain.verdict import MEANING, LayerRow, Verdict, describe, judge, layer_rows
from train.observe.contracts import Expected, LayerInfo
from train.sinks.contracts import Sink, Summary
from train.store.files import FIGURES_FOLDER
from train.store.metrics import Record
from train.tags import layers_of

log = logging.getLogger("train")
FIGURE = "signal_at_initialisation"
PLAIN_WIDTH = 100
"""Width of the table, in columns, when the output is not a terminal."""


@dataclass(frozen=True)
class NetworkInfo:
    """What is known about the network before its first train step."""

    layers: Sequence[LayerInfo]
    expected: Sequence[Expected]
    classes: int
    switches: Switches


class ExplanationSink(Sink):
    """A sink that writes the explanation to the sink `out`.

    After step 0: the layer table, the verdict and the signal figure. At the end of a run that diverged or stayed at chance: the
    diagnosis. It is made once the network exists, after the start of the other sinks.
    """

    name = "the explanation"

    def __init__(self, out: Sink, metrics_file: Path, title: str, network: NetworkInfo, thresholds: ThresholdSettings) -> None:
        self.out = out
        self.metrics_file = metrics_file
        self.title = title
        self.network = network
        self.thresholds = thresholds
        self.verdict: Verdict | None = None
        self.diagnosis: Diagnosis | None = None
        self._losses = Losses()
        self._anomalies = AnomalySearch(thresholds)

    def record(self, record: Record) -> None:
        first = self.verdict is None
        self.restore(record)
        if first and self.verdict is not None:
            self._explain_start(record, self.verdict)

    def restore(self, record: Record) -> None:
        self._losses.add(record)
        self._anomalies.add(record)
        if record.step == 0 and self.verdict is None and layers_of("activation_std", record.values):
            self.verdict = judge(self._rows(record), self.thresholds, self.network.expected)

    def finish(self, summary: Summary) -> None:
        network = self.network
        if summary.status != "diverged" and not self._losses.at_chance(network.classes):
            return
        self.diagnosis = diagnose(
            self._losses, self._anomalies, network.classes, network.switches, self.thresholds, network.layers
        )
        if self.diagnosis is not None:
            self.out.message(self.diagnosis.text, "warning")

    def _rows(self, record: Record) -> Sequence[LayerRow]:
        return layer_rows(record.values, self.network.layers)

    def _explain_start(self, record: Record, verdict: Verdict) -> None:
        # sys.__stdout__, as rich's live display replaces sys.stdout by a proxy that has no encoding
        unicode = sys.__stdout__ is not None and sys.__stdout__.encoding.lower().startswith("utf")
        width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns - 1
        lines = ["", *(line.text for line in render_table(self._rows(record), width, self.thresholds, unicode)), ""]
        self.out.message("\n".join(lines))
        self.out.message(verdict.sentence, "info" if verdict.kind == "healthy" else "warning")
        if verdict.kind != "healthy":
            self.out.message(f"meaning: {MEANING[verdict.kind]}{self._remedy(verdict)}")
        self.out.message(f"({describe(self.thresholds)})")
        self._draw(record)

    def _remedy(self, verdict: Verdict) -> str:
        if verdict.kind == "broken":
            return ""
        return f". Common remedies: {', '.join(suggest('cannot_learn', 'initial', verdict.statistic, self.network.switches))}"

    def _draw(self, record: Record) -> None:
        try:
            from train.figures.signal import Point, draw_signal  # imports matplotlib

            theory = {layer.name: layer for layer in self.network.expected}
            points = []
            for row in self._rows(record):
                expected = theory.get(row.layer) or Expected(row.layer, None, None, None)
                gap = expected.forward_gap or expected.backward_gap
                points.append(Point(row.layer, row.weighted, row.std, row.gradient_std, expected.std, expected.gradient_std, gap))
            png = draw_signal(points, self.title)
            figures = self.metrics_file.parent / FIGURES_FOLDER
            figures.mkdir(exist_ok=True)
            (figures / f"{FIGURE}.png").write_bytes(png)
            self.out.image(FIGURE, 0, png)
        except Exception as error:  # a failing figure must not cost the text
            log.warning("could not draw the signal figure", exc_info=error)
