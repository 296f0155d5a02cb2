"""The one number by which runs are compared: the final one, named before anybody looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UsageError, did_you_mean
from train.report.history import History, recorded_tags
from train.sinks.jsonl import decode_float
from train.store.run import Run

DEFAULT = "accuracy/test"

IN_SUMMARY = {
    "accuracy/test": "test_accuracy",
    "accuracy/val": "val_accuracy",
    "loss/test": "test_loss",
    "loss/val": "val_loss",
    "loss/train": "train_loss",
}
"""Tag -> the key of summary.json that holds its final value. Of any other tag it is that of the last record."""

_EXAMPLES = {"test": "test_examples", "val": "val_examples"}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Metric:
    """`tag` as in metrics.jsonl. Accuracies are fractions and shown in percent; of anything else the number itself is shown."""

    tag: str

    @property
    def is_share(self) -> bool:
        return self.tag.startswith("accuracy/")

    @property
    def higher_is_better(self) -> bool:
        return not self.tag.startswith("loss/")

    @property
    def name(self) -> str:
        """`test accuracy`; a tag that is not of the usual ones is its own name."""
        what, _, split = self.tag.partition("/")
        return f"{_SPLITS[split]} {what}" if what in ("accuracy", "loss") and split in _SPLITS else self.tag

    def value(self, run: Run, history: History) -> float:
        """After the last step of the run; NaN where there is none."""
        key = IN_SUMMARY.get(self.tag)
        if key is not None and run.summary.get(key) is not None:
            return number(run.summary[key])
        return history.last(self.tag)

    def examples(self, run: Run) -> int | None:
        """How many images it was counted on."""
        count = run.summary.get(_EXAMPLES.get(self.tag.partition("/")[2], ""))
        return count if isinstance(count, int) and count > 0 else None


def number(value: Any) -> float:
    """A float of summary.json or status.json; NaN for anything that is none."""
    try:
        return decode_float(value)
    except (TypeError, ValueError):
        return math.nan


def check_metric(metric: Metric, runs: Sequence[Run], histories: Mapping[Path, History]) -> None:
    """UsageError, with what there is, when runs ended and none of them has it."""
    ended = [run for run in runs if run.state == "done"]
    if not ended or any(math.isfinite(metric.value(run, histories[run.folder])) for run in ended):
        return
    known = sorted(recorded_tags(ended[0]) | {tag for tag, key in IN_SUMMARY.items() if ended[0].summary.get(key) is not None})
    listed = f"Recorded were: {', '.join(known)}." if known else "Nothing was recorded."
    near = did_you_mean(metric.tag, known) if known else ""
    hint = f" {near}" if near.startswith("Did") else ""
    raise UsageError(f"--metric {metric.tag}: no run that ended has it.{hint} {listed}")
