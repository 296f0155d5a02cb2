"""The sample of an arm, which the statistics take: the values of its runs, and counts of those that have none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from train.report.arms import Arm
from train.report.collect import FAILED
from train.report.contracts import Sample
from train.report.history import History
from train.report.metric import Metric
from train.report.outcome import Outcome


def build_sample(arm: Arm, metric: Metric, histories: Mapping[Path, History], found: Mapping[Path, Outcome]) -> Sample:
    """Return the values and run counts of an arm. Runs that are pending or have no value count as missing."""
    done = arm.runs_in("done")
    trained = [run for run in done if found[run.folder].trained is not False]
    valued = [(value, run.seed) for run in trained if math.isfinite(value := metric.value(run, histories[run.folder]))]
    diverged, failed, untrained = len(arm.runs_in("diverged")), len(arm.runs_in(*FAILED)), len(done) - len(trained)
    return Sample(
        arm=arm.id,
        values=tuple(value for value, _ in valued),
        seeds=tuple(seed for _, seed in valued),
        diverged=diverged,
        failed=failed,
        missing=len(arm.runs) - len(valued) - diverged - failed - untrained + arm.missing,
        untrained=untrained,
    )
