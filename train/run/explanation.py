"""What a run says about itself in words and figures: a view made from its records, and from theory where theory reaches."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from train.config import Settings
from train.observe.advice import Switches, suggest
from train.observe.diagnosis import Diagnosis, at_chance, diagnose
from train.observe.layer_table import render_table
from train.observe.layers import LayerInfo
from train.observe.theory import Expected, chain_of, predict
from train.observe.verdict import DEFAULT, MEANING, LayerRow, Thresholds, Verdict, judge, layer_rows
from train.parts.contracts import Shape
from train.run.fingerprint import chosen_name
from train.sinks.contracts import Record, RunInfo, Sink, Summary
from train.sinks.jsonl import read_records

log = logging.getLogger("train")
FIGURE = "signal_at_initialisation"
PLAIN_WIDTH = 100
"""Columns of the table where the output is no terminal."""


@dataclass(frozen=True)
class NetworkInfo:
    """What is known of the network before its first step."""

    layers: Sequence[LayerInfo]
    expected: Sequence[Expected]
    classes: int
    switches: Switches


class ExplanationSink(Sink):
    """After step 0: a table of the layers, a verdict, a figure of the signal. At the end of a run that diverged or learnt
    nothing: what broke first. Speaks through `out`; `subject` is set once the network is there."""

    name = "the explanation"

    def __init__(self, out: Sink, metrics_file: Path, thresholds: Thresholds = DEFAULT) -> None:
        self.out = out
        self.thresholds = thresholds
        self.metrics_file = metrics_file
        self.network: NetworkInfo | None = None
        self.verdict: Verdict | None = None
        self.diagnosis: Diagnosis | None = None
        self._title = ""
        self._losses: list[tuple[int, float]] = []

    def start(self, info: RunInfo) -> None:
        self._title = info.name

    def record(self, record: Record) -> None:
        first = self.verdict is None
        self.replay(record)
        if first and self.verdict is not None:
            self._introduce(record, self.verdict)

    def replay(self, record: Record) -> None:
        if "loss/train" in record.values:
            self._losses.append((record.step, record.values["loss/train"]))
        if record.step == 0 and self.verdict is None and any(tag.startswith("activation_std/") for tag in record.values):
            expected = self.network.expected if self.network else ()
            self.verdict = judge(self._rows(record), self.thresholds, expected)

    def finish(self, summary: Summary) -> None:
        subject = self.network
        if subject is None or not (summary.status == "diverged" or at_chance(self._losses, subject.classes)):
            return
        records = list(read_records(self.metrics_file))
        self.diagnosis = diagnose(records, subject.classes, subject.switches, subject.layers, self.thresholds)
        if self.diagnosis is not None:
            self.out.message(self.diagnosis.text, "warning")

    def _rows(self, record: Record) -> Sequence[LayerRow]:
        return layer_rows(record.values, self.network.layers if self.network else ())

    def _introduce(self, record: Record, verdict: Verdict) -> None:
        # rich's live view puts a proxy without an encoding in the place of sys.stdout
        unicode = sys.__stdout__ is not None and sys.__stdout__.encoding.lower().startswith("utf")
        width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns - 1
        lines = ["", *(line.text for line in render_table(self._rows(record), width, unicode, thresholds=self.thresholds)), ""]
        self.out.message("\n".join(lines))
        self.out.message(verdict.sentence, "info" if verdict.kind == "healthy" else "warning")
        if verdict.kind != "healthy":
            self.out.message(f"that means: {MEANING[verdict.kind]}{self._remedy(verdict)}")
        self.out.message(f"({self.thresholds.describe()})")
        self._draw(record)

    def _remedy(self, verdict: Verdict) -> str:
        if self.network is None or verdict.kind == "broken":
            return ""
        return f". Usually helps: {', '.join(suggest('cannot_learn', 'initial', verdict.statistic, self.network.switches))}"

    def _draw(self, record: Record) -> None:
        try:
            from train.observe.signal_figure import draw_signal, layer_points  # imports matplotlib

            png = draw_signal(layer_points(record.values), self.network.expected if self.network else (), self._title)
            figures = self.metrics_file.parent / "figures"
            figures.mkdir(exist_ok=True)
            (figures / f"{FIGURE}.png").write_bytes(png)
            self.out.image(FIGURE, 0, png)
        except Exception as error:  # the words are worth more than the figure
            log.warning("the figure of the signal could not be drawn", exc_info=error)


def predict_signal(model: nn.Module, shape: Shape, images: Tensor) -> Sequence[Expected]:
    """What theory says of a model at initialisation; nothing where it cannot follow the model at all."""
    try:
        return predict(chain_of(model, shape), images)
    except Exception as error:  # a model of the user's own may do what no chain describes
        log.info("no prediction from theory for this model", exc_info=error)
        return ()


def read_switches(settings: Settings) -> Switches:
    """The settings that advice depends on."""

    def number(group: str, key: str) -> Any:
        return settings.parts[group].get(key)

    return Switches(
        init=chosen_name(settings, "init"),
        norm=chosen_name(settings, "norm"),
        activation=number("model", "activation"),
        lr=number("optimizer", "lr"),
        grad_clip=settings.trainer.grad_clip,
        warmup=number("schedule", "warmup"),
    )
