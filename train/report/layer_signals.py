"""The size of activations and gradients in every layer of every arm, at initialisation and at the end of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.report.analysis import Analysis
from train.report.arms import Arm
from train.tags import STATISTICS, join, layers_of

SIGNALS = {statistic.name: statistic.signal for statistic in STATISTICS if statistic.signal}
"""Statistic -> what it is in words, for those that a report draws."""
NOT_MEASURED = -math.inf


@dataclass(frozen=True)
class ArmSignals:
    """One statistic in every layer of every arm.

    `first` and `last`: arm id -> one value per layer. NaN where the signal of any run was infinite or NaN; `NOT_MEASURED` where
    no run has the layer or none was observed.
    """

    statistic: str
    layers: tuple[str, ...]
    first: Mapping[str, tuple[float, ...]]
    last: Mapping[str, tuple[float, ...]]


def arm_signals(analysis: Analysis, arms: Sequence[Arm], statistic: str) -> ArmSignals | None:
    """Average a statistic over the runs of each arm, layer by layer; None where nothing was measured.

    At initialisation all runs count. At the end the done runs count, or the diverged ones where no run is done.
    """
    first = {arm.id: [analysis.history(run).first_signal for run in arm.runs] for arm in arms}
    last = {arm.id: [analysis.history(run).last_signal for run in arm.runs_in("done") or arm.runs_in("diverged")] for arm in arms}
    signals = [signal for by_arm in (first, last) for arm_runs in by_arm.values() for signal in arm_runs]
    layers = tuple(dict.fromkeys(layer for signal in signals for layer in layers_of(statistic, signal)))
    if not layers:
        return None
    tags = [join(statistic, layer) for layer in layers]
    return ArmSignals(statistic, layers, _means(first, tags), _means(last, tags))


def _means(signals: Mapping[str, Sequence[Mapping[str, float]]], tags: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {arm: tuple(_mean([signal[tag] for signal in runs if tag in signal]) for tag in tags) for arm, runs in signals.items()}


def _mean(values: Sequence[float]) -> float:
    if not values:
        return NOT_MEASURED
    return sum(values) / len(values) if all(math.isfinite(value) for value in values) else math.nan
