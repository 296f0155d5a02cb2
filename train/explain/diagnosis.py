"""The diagnosis of a run that diverged or did not learn: the first anomaly in its records, its history, and common remedies.

Records show what was measured, not what caused it, and the sentences claim no more. Advice depends on the kind of finding and
omits what the run does already.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from train.config import ThresholdSettings
from train.explain.verdict import Verdict, judge, layer_rows
from train.observe.contracts import LayerInfo
from train.store.metrics import Record, encode_float
from train.tags import diagnosed, join, layers_of, split
from train.text import percent, two_digits

Kind = Literal["diverged", "cannot_learn"]
Finding = Literal["not_finite", "growth", "large_update", "dying", "initial", "small_update", "nothing"]


@dataclass(frozen=True)
class Switches:
    """The settings of a run that advice depends on. None: the run has no such option."""

    init: str
    norm: str
    activation: str | None
    lr: float | None
    grad_clip: float | None
    warmup: float | None


def suggest(kind: Kind, finding: Finding, statistic: str, switches: Switches) -> tuple[str, ...]:
    """Return options that usually help with such a finding and are not set already, as the user types them."""
    norm = ["norm=batch"] if switches.norm == "none" else []
    if finding == "small_update":
        return tuple(_learning_rates(switches, 10))
    if finding == "initial":
        return tuple([*_suitable_init(switches), *norm] or ["model=resnet", *_learning_rates(switches, 0.1)])
    if finding == "dying":
        leaky = switches.activation == "relu" and statistic == "activation_dead"
        return (*_learning_rates(switches, 0.1), *norm, *(["model.activation=leaky_relu"] if leaky else []))
    if finding == "nothing" and kind == "cannot_learn":
        return (*_learning_rates(switches, 0.1), *_learning_rates(switches, 10))
    clip = ["trainer.grad_clip=1"] if switches.grad_clip is None else []
    warmup = ["schedule.warmup=0.1"] if switches.warmup == 0 else []
    return (*_learning_rates(switches, 0.1), *warmup, *clip, *norm)


def _learning_rates(switches: Switches, factor: float) -> list[str]:
    return [] if switches.lr is None else [f"optimizer.lr={switches.lr * factor:g} (now {switches.lr:g})"]


def _suitable_init(switches: Switches) -> list[str]:
    """Return the init that suits the activation: Xavier for saturating ones with slope 1 at 0, He for the others."""
    fitting = ("xavier", "glorot", "orthogonal", "lsuv") if switches.activation in ("tanh", "identity") else ("kaiming", "lsuv")
    return [] if switches.init in fitting else [f"init={fitting[0]}"]


HISTORY_LENGTH = 5

# Limits beyond which a value counts as an anomaly. They are heuristics.
GROWTH = {"activation_std": 10.0, "weight_std": 10.0, "gradient_std": 100.0, "parameter_gradient_norm": 100.0}
"""Statistic that should keep its order of magnitude -> limit, relative to the largest value of any layer at the start."""
LARGE_UPDATE, SMALL_UPDATE = 0.3, 1e-6
"""Limits of the change of a layer's weights in one step, relative to the weights."""
CHANCE, ENOUGH_STEPS = 0.98, 50
"""A run does not learn if its loss never falls below this share of ln(classes) in at least so many steps."""


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong in a run. `statistic`, `layer`, `step`: the first anomaly, empty if none was observed.

    `before`: (step, value) of the same statistic up to that step. `advice`: options as the user types them.
    """

    kind: Kind
    finding: Finding
    text: str
    statistic: str = ""
    layer: str = ""
    step: int | None = None
    before: tuple[tuple[int, float], ...] = ()
    advice: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields for status.json; NaN and infinities become strings, as in metrics.jsonl."""
        before = [[step, encode_float(value)] for step, value in self.before]
        return asdict(self) | {"before": before, "advice": list(self.advice)}


@dataclass(frozen=True)
class _Fault:
    finding: Finding
    statistic: str
    layer: str
    step: int
    message: str


def diagnose(
    records: Sequence[Record],
    classes: int,
    switches: Switches,
    thresholds: ThresholdSettings,
    layers: Sequence[LayerInfo] = (),
) -> Diagnosis | None:
    """Return what went wrong in the run with these `records` (one `metrics.jsonl`, in its order); None if nothing did.

    `layers`: `Observer.layers` if available; otherwise layers come in the order of the tags.
    """
    losses = [(record.step, record.values["loss/train"]) for record in records if "loss/train" in record.values]
    diverged = any(not math.isfinite(loss) for _, loss in losses)
    if not diverged and not at_chance(losses, classes):
        return None
    observed = [record for record in records if layers_of("activation_std", record.values)]
    initial = observed[0] if observed and observed[0].step == 0 else None
    verdict = judge(layer_rows(initial.values, layers), thresholds) if initial else None
    candidates = [_not_finite(observed), _first_excess(observed, thresholds), _initial_fault(verdict, diverged)]
    faults = sorted((fault for fault in candidates if fault is not None), key=lambda fault: fault.step)
    if not faults and not diverged:
        faults = [fault for fault in [_small_updates(observed)] if fault is not None]
    return _compose("diverged" if diverged else "cannot_learn", faults, observed, losses, classes, switches)


def at_chance(losses: Sequence[tuple[int, float]], classes: int) -> bool:
    """Return whether the training loss never fell below the loss of guessing, ln(classes), by more than noise.

    `losses`: the recorded (step, loss). False for a run that was too short to tell.
    """
    if len(losses) < 2 or losses[-1][0] < ENOUGH_STEPS:
        return False
    return min(loss for _, loss in losses) >= CHANCE * math.log(classes)


def _not_finite(observed: Sequence[Record]) -> _Fault | None:
    """Return the fault in the first record with a non-finite value.

    Within the record: the first such layer of the forward pass, else the last of the backward pass, else the first with such
    weights.
    """
    for record in observed:
        for group, last in (("activations", False), ("gradients", True), ("weights", False)):
            broken = [pair for pair in _pairs(record, diagnosed(group)) if _is_broken(pair[0], record.values[join(*pair)])]
            if broken:
                layer = broken[-1 if last else 0][1]
                statistic = next(name for name, broken_layer in broken if broken_layer == layer)
                value = record.values[join(statistic, layer)]
                message = f"{value:g} values" if statistic.endswith("nonfinite") else f"{statistic} {value:g}"
                return _Fault("not_finite", statistic, layer, record.step, f"not finite ({message})")
    return None


def _is_broken(statistic: str, value: float) -> bool:
    return not math.isfinite(value) or (statistic.endswith("nonfinite") and value > 0)


def _first_excess(observed: Sequence[Record], thresholds: ThresholdSettings) -> _Fault | None:
    """Return the largest excess over a limit in the first record after the initial one that has any."""
    for record in observed[1:]:
        pairs = (_excess(tag, value, observed[0].values, record.step, thresholds) for tag, value in record.values.items())
        excesses = [pair for pair in pairs if pair is not None]
        if excesses:
            return max(excesses, key=lambda pair: pair[0])[1]
    return None


def _excess(
    tag: str, value: float, start: Mapping[str, float], step: int, thresholds: ThresholdSettings
) -> tuple[float, _Fault] | None:
    """Return a value relative to its limit, with its fault, or None within the limit. `start`: the first record's values."""
    if not math.isfinite(value):
        return None
    statistic, layer = split(tag)
    growth = GROWTH.get(statistic)
    share = {"activation_dead": thresholds.dead, "activation_saturated": thresholds.saturated}.get(statistic)
    if growth is not None:
        # Not relative to the layer's own start: where the signal had faded, learning begins with growth.
        largest = max((v for name, v in start.items() if split(name)[0] == statistic and v > 0), default=math.inf)
        message = f"{value:.3g}, {value / largest:.3g} times the largest of any layer at the start"
        return (
            (value / largest / growth, _Fault("growth", statistic, layer, step, message)) if value >= growth * largest else None
        )
    if statistic == "update_ratio" and value >= LARGE_UPDATE:
        message = f"{value:.3g} of the weights' norm in one step"
        return value / LARGE_UPDATE, _Fault("large_update", statistic, layer, step, message)
    if share is not None and value >= share > start.get(tag, math.inf):
        message = f"{percent(value, 0)}, from {percent(start[tag], 0)}"
        return value / share, _Fault("dying", statistic, layer, step, message)
    return None


def _initial_fault(verdict: Verdict | None, diverged: bool) -> _Fault | None:
    """Return the fault at initialisation; for a run that diverged only if something was too large rather than too small."""
    if verdict is None or verdict.kind in ("healthy", "broken") or (diverged and "explodes" not in verdict.kind):
        return None
    return _Fault("initial", verdict.statistic, verdict.layer, 0, verdict.sentence)


def _small_updates(observed: Sequence[Record]) -> _Fault | None:
    """Return the fault if weights hardly move even in the record where they move most."""
    updates = [
        (record.values[join("update_ratio", layer)], layer, record.step)
        for record in observed
        for layer in layers_of("update_ratio", record.values)
    ]
    if not updates or max(updates)[0] >= SMALL_UPDATE:
        return None
    value, layer, step = max(updates)
    return _Fault("small_update", "update_ratio", layer, step, f"at most {two_digits(value)} of the weights' norm in one step")


def _pairs(record: Record, statistics: Collection[str]) -> list[tuple[str, str]]:
    """Return (statistic, layer) for the record's tags of these statistics, grouped by layer, in the order of the tags."""
    pairs = [pair for pair in map(split, record.values) if pair[0] in statistics]
    positions = {layer: position for position, layer in enumerate(dict.fromkeys(layer for _, layer in pairs))}
    return sorted(pairs, key=lambda pair: positions[pair[1]])


def _compose(
    kind: Kind,
    faults: Sequence[_Fault],
    observed: Sequence[Record],
    losses: Sequence[tuple[int, float]],
    classes: int,
    switches: Switches,
) -> Diagnosis:
    """Return the diagnosis in words: how the run ended, the first fault and its history, later faults, remedies."""
    first = faults[0] if faults else None
    advice = suggest(kind, first.finding if first else "nothing", first.statistic if first else "", switches)
    before = _history(first, observed) if first else ()
    lines = [_ending_line(kind, losses, classes), *_fault_lines(first, before, observed)]
    lines += [f"then: {fault.statistic} of {fault.layer} at step {fault.step}: {fault.message}" for fault in faults[1:]]
    if advice:
        lines.append(f"common remedies: {', '.join(advice)}")
    text = "\n".join(lines)
    if first is None:
        return Diagnosis(kind, "nothing", text, advice=advice)
    return Diagnosis(kind, first.finding, text, first.statistic, first.layer, first.step, before, advice)


def _ending_line(kind: Kind, losses: Sequence[tuple[int, float]], classes: int) -> str:
    if kind == "cannot_learn":
        best = min(loss for _, loss in losses)
        chance = f"guessing among {classes} classes gives ln({classes}) = {math.log(classes):.3f}"
        return f"the run did not learn: in {losses[-1][0]} steps the training loss was never below {best:.3f}; {chance}"
    bad = next(step for step, loss in losses if not math.isfinite(loss))
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)][-HISTORY_LENGTH:]
    history = f"; before: {_series(finite)}" if finite else ""
    return f"the run diverged: the training loss recorded at step {bad} is not finite{history}"


def _fault_lines(first: _Fault | None, before: Sequence[tuple[int, float]], observed: Sequence[Record]) -> list[str]:
    if first is None:
        if not observed:
            return ["the layers were not observed. Set observe=basic observe.every=1 to see where it begins"]
        return [f"no anomaly when last observed, at step {observed[-1].step}. Set observe.every=1 to observe every step"]
    if first.finding == "initial":
        return [f"at initialisation, before the first update: {first.message}"]
    history = f"; before: {_series(before)}" if before else ""
    return [f"broke first: {first.statistic} of {first.layer} at step {first.step}: {first.message}{history}"]


def _history(fault: _Fault, observed: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """Return the last values of the faulty statistic before the fault.

    For a count of non-finite values, return those of the std, which says more.
    """
    tag = join(fault.statistic.replace("_nonfinite", "_std"), fault.layer)
    return tuple((r.step, r.values[tag]) for r in observed if r.step < fault.step and tag in r.values)[-HISTORY_LENGTH:]


def _series(values: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{value:.3g} (step {step})" for step, value in values)
