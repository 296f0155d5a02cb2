"""How large activations and gradients are in every layer of every arm, at initialisation and at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.report.analysis import Analysis
from train.report.arms import Arm

STATISTICS = {
    "activation_std": "standard deviation of the activations",
    "gradient_std": "standard deviation of the gradients",
}
NOT_MEASURED = -math.inf


@dataclass(frozen=True)
class ArmSignals:
    """`first` and `last`: arm's id -> a value for every layer. NaN where a run's signal was infinite or no number, `NOT_MEASURED`
    where no run has the layer or none was looked at."""

    statistic: str
    layers: tuple[str, ...]
    first: Mapping[str, tuple[float, ...]]
    last: Mapping[str, tuple[float, ...]]


def arm_signals(analysis: Analysis, arms: Sequence[Arm], statistic: str) -> ArmSignals | None:
    """Means over the runs of an arm: of all of them at initialisation; at the end of those that reached it, or, where all
    diverged, of these. None where nothing was measured."""
    first = {arm.id: [analysis.history(run).first_signal for run in arm.runs] for arm in arms}
    last = {arm.id: [analysis.history(run).last_signal for run in arm.having("done") or arm.having("diverged")] for arm in arms}
    prefix = f"{statistic}/"
    looks = [look for found in (first, last) for records in found.values() for look in records]
    layers = tuple(dict.fromkeys(tag.removeprefix(prefix) for look in looks for tag in look if tag.startswith(prefix)))
    if not layers:
        return None
    return ArmSignals(statistic, layers, _means(first, prefix, layers), _means(last, prefix, layers))


def _means(
    looks: Mapping[str, Sequence[Mapping[str, float]]], prefix: str, layers: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    return {
        arm: tuple(_mean([look[prefix + layer] for look in records if prefix + layer in look]) for layer in layers)
        for arm, records in looks.items()
    }


def _mean(values: Sequence[float]) -> float:
    if not values:
        return NOT_MEASURED
    return sum(values) / len(values) if all(math.isfinite(value) for value in values) else math.nan
