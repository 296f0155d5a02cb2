"""The statistics of layers in all runs of a study, by the size of the network, and what theory expects of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from train.naming import levels_text
from train.report.arms import Arm, Study
from train.report.history import History
from train.report.metric import as_float
from train.report.scaling.layers import Layers, Place, layers_in, places_by_depth, places_by_name
from train.store.files import SUMMARY_FILE
from train.store.overrides import dotted_key
from train.store.run import Run
from train.store.stored import read_stored
from train.tags import join, module_of

Quantity: TypeAlias = Literal["activation", "gradient", "update"]
TAGS: Mapping[Quantity, str] = {"activation": "activation_std", "gradient": "gradient_std", "update": "update_ratio"}
QUANTITIES: tuple[Quantity, ...] = ("activation", "gradient", "update")
STATISTICS = (*TAGS.values(), "weight_std")
_THEORY: Mapping[Quantity, str] = {"activation": "std", "gradient": "gradient_std"}


@dataclass(frozen=True)
class Axis:
    """What grows. `key`: the setting; `word`: its name in sentences; `places`: which layers are compared; `least_update`: the
    exponent to which a relative update may fall, as `train.report.scaling.verdict` explains; `whole`: what is said of a network
    that keeps all, and of one that does not."""

    key: str
    word: str
    places: Callable[[Mapping[float, Layers]], tuple[Place, ...]]
    least_update: float
    whole: tuple[str, str]


WIDTH = Axis("model.width", "width", places_by_name, -0.5, ("transfers", "does not transfer"))
DEPTH = Axis("model.depth", "depth", places_by_depth, -1.0, ("holds with depth", "does not hold with depth"))


@dataclass(frozen=True)
class Series:
    """A statistic of a layer at one moment, in networks of several sizes.

    `logs`: size -> its logarithm, by run; `relative`: of gradients the same relative to the last hidden layer, else empty;
    `expected`: size -> the logarithm of what theory expects, empty where it is silent; `lost`: the runs in which it was 0 or not
    finite.
    """

    quantity: Quantity
    step: int
    place: Place
    logs: Mapping[float, tuple[float, ...]]
    relative: Mapping[float, tuple[float, ...]]
    expected: Mapping[float, float]
    lost: int

    @property
    def runs(self) -> int:
        return self.lost + sum(map(len, self.logs.values()))


@dataclass(frozen=True)
class Group:
    """Networks that differ in their size and seed alone. `label`: their other levels; `steps`: the steps at which layers were
    observed, the first and the last; `diverged`: size -> (runs that diverged, runs that ended)."""

    label: str
    sizes: tuple[float, ...]
    series: tuple[Series, ...]
    steps: tuple[int, ...]
    diverged: Mapping[float, tuple[int, int]]


def groups_of(study: Study, histories: Mapping[Path, History], axis: Axis) -> Iterator[Group]:
    """Yield the groups of a study that have networks of several sizes."""
    arms: dict[str, dict[float, Arm]] = {}
    for arm in study.arms:
        levels = {factor: level for factor, level in arm.levels.items() if dotted_key(factor) != axis.key}
        size = size_of(arm.setting.level(axis.key))
        if arm.runs and size > 0:
            arms.setdefault(levels_text(levels), {})[size] = arm
    for label, by_size in arms.items():
        observed = {
            size: [run for run in arm.runs if histories[run.folder].first_signal] for size, arm in sorted(by_size.items())
        }
        runs = {size: found for size, found in observed.items() if found}
        if len(runs) > 1:
            yield _group(label, runs, by_size, histories, axis)


def size_of(level: str) -> float:
    """Return the size that a level names; NaN for one that is no number."""
    try:
        return float(level)
    except ValueError:
        return math.nan


def _group(
    label: str, runs: Mapping[float, list[Run]], arms: Mapping[float, Arm], histories: Mapping[Path, History], axis: Axis
) -> Group:
    all_runs = [run for found in runs.values() for run in found]
    last = max(histories[run.folder].last_observed for run in all_runs)
    places = axis.places({size: layers_in([*histories[found[0].folder].first_signal]) for size, found in runs.items()})
    expected = {run.folder: _expected(run) for run in all_runs}
    steps = tuple(dict.fromkeys((0, last)))
    series = []
    for step in steps:
        values = {size: [found for run in of if (found := _signal(histories[run.folder], step))] for size, of in runs.items()}
        theory = {size: [expected[run.folder] for run in of] for size, of in runs.items()} if step == 0 else {}
        series += [found for place in places for found in _series_at(place, step, values, theory, places)]
    diverged = {
        size: (count, len(arm.runs_in("done", "diverged")))
        for size, arm in sorted(arms.items())
        if (count := len(arm.runs_in("diverged")))
    }
    return Group(label, tuple(runs), tuple(series), steps, diverged)


def _signal(history: History, step: int) -> Mapping[str, float]:
    """Return what was observed at a step; nothing if the run did not get there."""
    if step == history.first_step:
        return history.first_signal
    return history.last_signal if step == history.last_observed else {}


_Values: TypeAlias = Mapping[float, Sequence[Mapping[str, float]]]


def _series_at(
    place: Place, step: int, values: _Values, theory: Mapping[float, Any], places: Sequence[Place]
) -> Iterator[Series]:
    """Yield the statistics of a layer at a step that networks of several sizes have."""
    ends = [other for other in places if other.is_hidden and TAGS["gradient"] in other.statistics]
    for quantity in QUANTITIES:
        if (statistic := TAGS[quantity]) not in place.statistics:
            continue
        measured = {size: [_log(signal, statistic, place.names[size]) for signal in found] for size, found in values.items()}
        known = {size: [value for value in found if value is not None] for size, found in measured.items()}
        logs = {size: tuple(value for value in found if math.isfinite(value)) for size, found in known.items()}
        if sum(1 for found in known.values() if found) < 2:
            continue
        relative: dict[float, tuple[float, ...]] = {}
        if quantity == "gradient" and place.is_hidden and place is not ends[-1]:
            last = {size: [_log(signal, statistic, ends[-1].names[size]) for signal in found] for size, found in values.items()}
            relative = {size: _differences(measured[size], last[size]) for size in measured}
        yield Series(
            quantity,
            step,
            place,
            {size: found for size, found in logs.items() if found},
            {size: found for size, found in relative.items() if found},
            _expected_logs(quantity, place, theory),
            sum(len(known[size]) - len(logs[size]) for size in known),
        )


def _log(signal: Mapping[str, float], statistic: str, layer: str) -> float | None:
    """Return the logarithm of a statistic, NaN where it is 0 or not finite, None where it was not measured."""
    value = signal.get(join(statistic, module_of(layer) if statistic == TAGS["update"] else layer))
    return None if value is None else math.log(value) if 0 < value < math.inf else math.nan


def _differences(left: Sequence[float | None], right: Sequence[float | None]) -> tuple[float, ...]:
    pairs = ((a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None)
    return tuple(a - b for a, b in pairs if math.isfinite(a - b))


def _expected(run: Run) -> Mapping[str, Any]:
    """Return what theory expects of the layers of a run; nothing where it did not end or is of an earlier version."""
    try:
        found = read_stored(run.folder, SUMMARY_FILE).get("expected_signal")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _expected_logs(quantity: Quantity, place: Place, theory: Mapping[float, Sequence[Mapping[str, Any]]]) -> dict[float, float]:
    """Return size -> mean logarithm over the runs for which theory says something of the layer."""
    logs = {}
    for size, found in theory.items():
        layers = [layer for expected in found if isinstance(layer := expected.get(place.names[size]), Mapping)]
        stds = [as_float(layer.get(_THEORY.get(quantity, ""))) for layer in layers]
        known = [math.log(std) for std in stds if 0 < std < math.inf]
        if known:
            logs[size] = sum(known) / len(known)
    return logs if len(logs) == len(theory) else {}
