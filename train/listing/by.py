"""Runs in groups: how a metric is distributed over those that have the same values of some keys."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from train.errors import UsageError
from train.listing.table import shown
from train.store.kinds import is_number
from train.store.run import Run
from train.store.values import value_of
from train.store.where import refuse_unknown_key

HEADS = ("runs", "done", "n", "mean", "sd", "min", "max")


def group_cells(runs: Sequence[Run], metric: str) -> list[str]:
    """Return the numbers of runs, and of those that are done mean, standard deviation and range of the metric, as text.

    `n`: the number of runs with a finite value. Empty stands for what a group is too small for.
    """
    done = [run for run in runs if run.state == "done"]
    values = [float(value) for run in done if is_number(value := value_of(run, metric)) and math.isfinite(value)]
    counts = [str(len(items)) for items in (runs, done, values)]
    if not values:
        return [*counts, "", "", "", ""]
    spread = shown(metric, statistics.stdev(values)) if len(values) > 1 else ""
    return [*counts, shown(metric, statistics.fmean(values)), spread, shown(metric, min(values)), shown(metric, max(values))]


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raise UsageError where no run has the metric."""
    try:
        refuse_unknown_key(metric, runs, f"--metric {metric}")
    except UsageError:
        if any(run.state == "done" for run in runs):
            raise
