"""The metric by which runs are compared: one final value per run, to be chosen before seeing results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UsageError, did_you_mean
from train.report.history import History, recorded_tags
from train.store.metrics import decode_float
from train.store.run import Run
from train.store.values import IN_SUMMARY
from train.tags import split

DEFAULT = "accuracy/test"
LARGEST = 1e150
"""Larger values have no statistics: squares of differences overflow."""

_EXAMPLES = {"test": "test_examples", "val": "val_examples"}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Metric:
    """A metric by its `tag` in metrics.jsonl. Accuracies are fractions, displayed in percent; others are displayed unscaled."""

    tag: str

    @property
    def is_share(self) -> bool:
        return split(self.tag)[0] == "accuracy"

    @property
    def scale(self) -> int:
        """By what values are multiplied to be displayed."""
        return 100 if self.is_share else 1

    @property
    def higher_is_better(self) -> bool | None:
        """Whether higher values are better; None for tags such as a learning rate, of which neither direction is."""
        return {"accuracy": True, "loss": False}.get(split(self.tag)[0])

    @property
    def direction(self) -> str:
        if self.higher_is_better is None:
            return "Neither direction is better by itself"
        return f"{'Higher' if self.higher_is_better else 'Lower'} is better"

    @property
    def order(self) -> str:
        """How arms are sorted by their means."""
        return f"{'lowest' if self.higher_is_better is False else 'highest'} first"

    @property
    def name(self) -> str:
        """A readable name such as `test accuracy`; the tag itself for other tags."""
        quantity, part = split(self.tag)
        return f"{_SPLITS[part]} {quantity}" if quantity in ("accuracy", "loss") and part in _SPLITS else self.tag

    def value(self, run: Run, history: History) -> float:
        """Return the value after the last step of the run; NaN without one, and for one beyond `LARGEST`."""
        key = IN_SUMMARY.get(self.tag)
        stored = run.summary.get(key) if key is not None else None
        value = history.last(self.tag) if stored is None else as_float(stored)
        return value if abs(value) <= LARGEST else math.nan

    def examples(self, run: Run) -> int | None:
        """Return the number of images that the metric was evaluated on; None when unknown."""
        count = run.summary.get(_EXAMPLES.get(split(self.tag)[1], ""))
        return count if isinstance(count, int) and count > 0 else None


def as_float(value: Any) -> float:
    """Convert a value of summary.json or status.json to a float; NaN for anything that is no number."""
    try:
        return decode_float(value)
    except (TypeError, ValueError):
        return math.nan


def check_metric(metric: Metric, runs: Sequence[Run], histories: Mapping[Path, History]) -> None:
    """Raise UsageError, listing the recorded metrics, when runs completed but none of them has `metric`."""
    completed = [run for run in runs if run.state == "done"]
    if not completed or any(math.isfinite(metric.value(run, histories[run.folder])) for run in completed):
        return
    available = sorted(
        recorded_tags(completed[0]) | {tag for tag, key in IN_SUMMARY.items() if completed[0].summary.get(key) is not None}
    )
    recorded = f"Recorded metrics: {', '.join(available)}." if available else "No metrics were recorded."
    suggestion = did_you_mean(metric.tag, available) if available else ""
    hint = f" {suggestion}" if suggestion.startswith("Did") else ""
    raise UsageError(f"--metric {metric.tag}: no completed run has this metric.{hint} {recorded}")
