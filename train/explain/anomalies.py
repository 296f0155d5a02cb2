"""The search for anomalies in what was observed of the layers: record by record, in memory that does not grow with the run."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from train.config import ThresholdSettings
from train.store.metrics import Record
from train.tags import diagnosed, join, layers_of, split
from train.text import percent, two_digits

Finding = Literal["not_finite", "growth", "large_update", "dying", "initial", "small_update", "nothing"]

HISTORY_LENGTH = 5
_KEPT = HISTORY_LENGTH + 50
"""Values of a tag that are kept: a replay of the last steps can find a fault before the last of them."""

# Limits beyond which a value counts as an anomaly. They are heuristics.
GROWTH = {"activation_std": 10.0, "weight_std": 10.0, "gradient_std": 100.0, "parameter_gradient_norm": 100.0}
"""Statistic that should keep its order of magnitude -> limit, relative to the largest value of any layer at the start."""
LARGE_UPDATE, SMALL_UPDATE = 0.3, 1e-6
"""Limits of the change of a layer's weights in one step, relative to the weights."""


@dataclass(frozen=True)
class Fault:
    """An anomaly, in the layer and at the step where it was observed."""

    finding: Finding
    statistic: str
    layer: str
    step: int
    message: str

    @property
    def history_tag(self) -> str:
        """The tag whose values led to the fault. For a count of non-finite values, that of the std, which says more."""
        return join(self.statistic.replace("_nonfinite", "_std"), self.layer)


class AnomalySearch:
    """The first anomalies in the records of a run, which `add` receives in the order of `metrics.jsonl`.

    `first`: the first record of the layers; `last_step`: the step of the last one. `not_finite`: the fault in the first record
    with a value that is not finite. `excess`: the largest excess over a limit in the first record after `first` that has any.
    """

    def __init__(self, thresholds: ThresholdSettings) -> None:
        self.first: Record | None = None
        self.last_step = 0
        self.not_finite: Fault | None = None
        self.excess: Fault | None = None
        self._thresholds = thresholds
        self._largest: dict[str, float] = {}
        self._floors = _Floors(self._floor)
        self._update: tuple[float, str, int] = (-math.inf, "", 0)
        self._values: dict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._before: dict[Fault, deque[tuple[int, float]]] = {}

    @property
    def small_update(self) -> Fault | None:
        """The fault if weights hardly move even in the record where they move most."""
        value, layer, step = self._update
        if not layer or value >= SMALL_UPDATE:
            return None
        return Fault("small_update", "update_ratio", layer, step, f"at most {two_digits(value)} of the weights' norm in one step")

    def before(self, fault: Fault) -> tuple[tuple[int, float], ...]:
        """Return the last (step, value) before a fault that was found here; none before one at initialisation."""
        return tuple(self._before.get(fault, ()))[-HISTORY_LENGTH:]

    def add(self, record: Record) -> None:
        """Search a record of the layers; others are passed over."""
        values = record.values
        if not any(tag.startswith("activation_std/") for tag in values):
            return
        if self.first is None:
            self._begin(record)
        for fault, before in self._before.items():  # a replay observes steps between those that were observed
            if record.step < fault.step and fault.history_tag in values:
                before.append((record.step, values[fault.history_tag]))
        floors = self._floors
        if not all(-math.inf < value < floors[tag] for tag, value in values.items()):
            self._search(record)
        if self._update[0] < SMALL_UPDATE:
            self._add_updates(record)
        for tag, value in values.items():
            self._values[tag].append((record.step, value))
        self.last_step = record.step

    def _begin(self, first: Record) -> None:
        self.first = first
        for name in GROWTH:
            stds = [first.values[join(name, layer)] for layer in layers_of(name, first.values)]
            self._largest[name] = max((value for value in stds if value > 0), default=math.inf)

    def _floor(self, tag: str) -> float:
        """Return the lowest value of a tag that can be a fault. NaN and infinities always can."""
        statistic, _ = split(tag)
        if statistic.endswith("nonfinite"):
            return math.ulp(0.0)
        if self.excess is not None:
            return math.inf
        if statistic in GROWTH:
            return GROWTH[statistic] * self._largest[statistic]
        return LARGE_UPDATE if statistic == "update_ratio" else self._share(tag)

    def _share(self, tag: str) -> float:
        """Return the threshold of a share of units that was below it at the start; infinity for other tags."""
        assert self.first is not None
        thresholds = {"activation_dead": self._thresholds.dead, "activation_saturated": self._thresholds.saturated}
        share = thresholds.get(split(tag)[0], math.inf)
        return share if share > self.first.values.get(tag, math.inf) else math.inf

    def _search(self, record: Record) -> None:
        if self.not_finite is None:
            self.not_finite = self._found(_not_finite(record))
        if self.excess is None and record is not self.first:
            found = [pair for tag, value in record.values.items() if (pair := self._excess(tag, value, record.step))]
            self.excess = self._found(max(found, key=lambda pair: pair[0])[1] if found else None)
            if self.excess is not None:
                self._floors.clear()  # from now on, only what is not finite is searched for

    def _found(self, fault: Fault | None) -> Fault | None:
        if fault is not None:
            earlier = [point for point in self._values[fault.history_tag] if point[0] < fault.step]
            self._before[fault] = deque(earlier, maxlen=HISTORY_LENGTH)
        return fault

    def _excess(self, tag: str, value: float, step: int) -> tuple[float, Fault] | None:
        """Return a value relative to its limit, with its fault, or None within the limit."""
        if not math.isfinite(value) or value < self._floor(tag):
            return None
        statistic, layer = split(tag)
        if statistic in GROWTH:
            # Not relative to the layer's own start: where the signal had faded, learning begins with growth.
            largest = self._largest[statistic]
            message = f"{value:.3g}, {value / largest:.3g} times the largest of any layer at the start"
            return value / largest / GROWTH[statistic], Fault("growth", statistic, layer, step, message)
        if statistic == "update_ratio":
            message = f"{value:.3g} of the weights' norm in one step"
            return value / LARGE_UPDATE, Fault("large_update", statistic, layer, step, message)
        if statistic.endswith("nonfinite"):
            return None
        assert self.first is not None
        message = f"{percent(value, 0)}, from {percent(self.first.values[tag], 0)}"
        return value / self._share(tag), Fault("dying", statistic, layer, step, message)

    def _add_updates(self, record: Record) -> None:
        """Keep the largest update of the run, and what was before it."""
        updates = [(record.values[join("update_ratio", layer)], layer) for layer in layers_of("update_ratio", record.values)]
        largest = max([self._update, *((value, layer, record.step) for value, layer in updates)])
        if largest != self._update:
            if (previous := self.small_update) is not None:
                self._before.pop(previous, None)
            self._update = largest
            self._found(self.small_update)


class _Floors(dict[str, float]):
    """Tag -> the lowest value that can be a fault, computed when first asked for."""

    def __init__(self, compute: Callable[[str], float]) -> None:
        self._compute = compute

    def __missing__(self, tag: str) -> float:
        return self.setdefault(tag, self._compute(tag))


def _not_finite(record: Record) -> Fault | None:
    """Return the fault in a record with a value that is not finite.

    It is in the first such layer of the forward pass, else the last of the backward pass, else the first with such weights.
    """
    for group, last in (("activations", False), ("gradients", True), ("weights", False)):
        broken = [pair for pair in _pairs(record, diagnosed(group)) if _is_broken(pair[0], record.values[join(*pair)])]
        if broken:
            layer = broken[-1 if last else 0][1]
            statistic = next(name for name, broken_layer in broken if broken_layer == layer)
            value = record.values[join(statistic, layer)]
            message = f"{value:g} values" if statistic.endswith("nonfinite") else f"{statistic} {value:g}"
            return Fault("not_finite", statistic, layer, record.step, f"not finite ({message})")
    return None


def _is_broken(statistic: str, value: float) -> bool:
    return not math.isfinite(value) or (statistic.endswith("nonfinite") and value > 0)


def _pairs(record: Record, statistics: Collection[str]) -> list[tuple[str, str]]:
    """Return (statistic, layer) for the record's tags of these statistics, grouped by layer, in the order of the tags."""
    pairs = [pair for pair in map(split, record.values) if pair[0] in statistics]
    positions = {layer: position for position, layer in enumerate(dict.fromkeys(layer for _, layer in pairs))}
    return sorted(pairs, key=lambda pair: positions[pair[1]])
