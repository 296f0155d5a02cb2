"""Evaluations of several runs by arm: means over runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from train.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Mean:
    """The mean of the values of runs, and their standard deviation: NaN for fewer than two."""

    mean: float
    sd: float


@dataclass(frozen=True)
class ArmScore:
    """The runs of one arm.

    `overrides`: what the arm changes; `label`: the same without what all arms change; `evaluations`: of its done runs, which the
    means are over; `others`: of those that diverged or were interrupted.
    """

    arm: str
    overrides: tuple[str, ...]
    label: str
    evaluations: tuple[Evaluation, ...]
    others: tuple[Evaluation, ...]

    @property
    def accuracy(self) -> Mean:
        return mean_of([item.score.accuracy for item in self.evaluations])

    @property
    def loss(self) -> Mean:
        return mean_of([item.score.loss for item in self.evaluations])

    @property
    def classes(self) -> tuple[tuple[str, Mean], ...]:
        """Name and accuracy of each class, without classes that have no images."""
        by_class = zip(*(item.classes for item in self.evaluations), strict=True)
        return tuple((scores[0].name, mean_of([score.accuracy for score in scores])) for scores in by_class if scores[0].images)


def arm_scores(evaluations: Sequence[Evaluation]) -> tuple[ArmScore, ...]:
    """Group evaluations by arm, in the order of the first run of each."""
    groups: dict[str, list[Evaluation]] = {}
    for item in evaluations:
        groups.setdefault(item.run.arm, []).append(item)
    common = set.intersection(*(set(items[0].run.arm_overrides) for items in groups.values())) if len(groups) > 1 else set()
    return tuple(_arm_score(arm, items, common) for arm, items in groups.items())


def _arm_score(arm: str, items: Sequence[Evaluation], common: Collection[str]) -> ArmScore:
    overrides = items[0].run.arm_overrides
    done, others = (tuple(item for item in items if (item.run.state == "done") is wanted) for wanted in (True, False))
    label = " ".join(override for override in overrides if override not in common) or "the defaults"
    return ArmScore(arm, overrides, label, done, others)


def mean_of(values: Sequence[float]) -> Mean:
    """Return mean and standard deviation; NaN where a value is."""
    if not values or not all(map(math.isfinite, values)):
        return Mean(math.nan, math.nan)
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)
