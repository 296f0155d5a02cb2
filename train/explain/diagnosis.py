"""The diagnosis of a run that diverged or did not learn: the first anomaly in its records, its history, and common remedies.

Records show what was measured, not what caused it, and the sentences claim no more. Advice depends on the kind of finding and
omits what the run does already.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from train.config import ThresholdSettings
from train.explain.anomalies import HISTORY_LENGTH, AnomalySearch, Fault, Finding
from train.explain.verdict import Verdict, judge, layer_rows
from train.observe.contracts import LayerInfo
from train.store.metrics import Record, encode_float

Kind = Literal["diverged", "cannot_learn"]


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


class Losses:
    """The recorded training losses as far as the diagnosis needs them; `add` receives them in the order of the records."""

    def __init__(self) -> None:
        self.count = 0
        self.last_step = 0
        self.lowest = math.inf
        self.bad_step: int | None = None
        """The first step with a loss that is not finite."""
        self.last_finite: deque[tuple[int, float]] = deque(maxlen=HISTORY_LENGTH)

    def add(self, record: Record) -> None:
        """Add the loss of a record, if it has one."""
        loss = record.values.get("loss/train")
        if loss is None:
            return
        self.count, self.last_step, self.lowest = self.count + 1, record.step, min(self.lowest, loss)
        if math.isfinite(loss):
            self.last_finite.append((record.step, loss))
        elif self.bad_step is None:
            self.bad_step = record.step

    def at_chance(self, classes: int) -> bool:
        """Return whether the loss never fell below that of guessing, ln(classes), by more than noise.

        False for a run that was too short to tell.
        """
        return self.count > 1 and self.last_step >= ENOUGH_STEPS and self.lowest >= CHANCE * math.log(classes)


def diagnose(
    losses: Losses,
    anomalies: AnomalySearch,
    classes: int,
    switches: Switches,
    thresholds: ThresholdSettings,
    layers: Sequence[LayerInfo] = (),
    reason: str = "",
) -> Diagnosis | None:
    """Return what went wrong in the run whose records `losses` and `anomalies` have received; None if nothing did.

    `layers`: `Observer.layers` if available; otherwise layers come in the order of the tags. `reason`: why the run diverged, if
    it did; needed where every loss was finite.
    """
    diverged = losses.bad_step is not None or bool(reason)
    if not diverged and not losses.at_chance(classes):
        return None
    first = anomalies.first
    verdict = judge(layer_rows(first.values, layers), thresholds) if first is not None and first.step == 0 else None
    candidates = [anomalies.not_finite, anomalies.excess, _initial_fault(verdict, diverged)]
    faults = sorted((fault for fault in candidates if fault is not None), key=lambda fault: fault.step)
    if not faults and not diverged and anomalies.small_update is not None:
        faults = [anomalies.small_update]
    ending = _ending_line("diverged" if diverged else "cannot_learn", losses, classes, reason)
    return _compose("diverged" if diverged else "cannot_learn", ending, faults, anomalies, switches)


def _initial_fault(verdict: Verdict | None, diverged: bool) -> Fault | None:
    """Return the fault at initialisation; for a run that diverged only if something was too large rather than too small."""
    if verdict is None or verdict.kind in ("healthy", "broken") or (diverged and "explodes" not in verdict.kind):
        return None
    return Fault("initial", verdict.statistic, verdict.layer, 0, verdict.sentence)


def _compose(kind: Kind, ending: str, faults: Sequence[Fault], anomalies: AnomalySearch, switches: Switches) -> Diagnosis:
    """Return the diagnosis in words: how the run ended, the first fault and its history, later faults, remedies."""
    first = faults[0] if faults else None
    advice = suggest(kind, first.finding if first else "nothing", first.statistic if first else "", switches)
    before = anomalies.before(first) if first else ()
    lines = [ending, *_fault_lines(first, before, anomalies)]
    lines += [f"then: {fault.statistic} of {fault.layer} at step {fault.step}: {fault.message}" for fault in faults[1:]]
    if advice:
        lines.append(f"common remedies: {', '.join(advice)}")
    text = "\n".join(lines)
    if first is None:
        return Diagnosis(kind, "nothing", text, advice=advice)
    return Diagnosis(kind, first.finding, text, first.statistic, first.layer, first.step, before, advice)


def _ending_line(kind: Kind, losses: Losses, classes: int, reason: str) -> str:
    if kind == "cannot_learn":
        chance = f"guessing among {classes} classes gives ln({classes}) = {math.log(classes):.3f}"
        return (
            f"the run did not learn: in {losses.last_step} steps the training loss was never below {losses.lowest:.3f}; {chance}"
        )
    history = f"; before: {_series(losses.last_finite)}" if losses.last_finite else ""
    if losses.bad_step is not None:
        reason = f"the training loss recorded at step {losses.bad_step} is not finite"
    return f"the run diverged: {reason}{history}"


def _fault_lines(first: Fault | None, before: Sequence[tuple[int, float]], anomalies: AnomalySearch) -> list[str]:
    if first is None:
        if anomalies.first is None:
            return ["the layers were not observed. Set observe=basic observe.every=1 to see where it begins"]
        return [f"no anomaly when last observed, at step {anomalies.last_step}. Set observe.every=1 to observe every step"]
    if first.finding == "initial":
        return [f"at initialisation, before the first update: {first.message}"]
    history = f"; before: {_series(before)}" if before else ""
    return [f"broke first: {first.statistic} of {first.layer} at step {first.step}: {first.message}{history}"]


def _series(values: Iterable[tuple[int, float]]) -> str:
    return ", ".join(f"{value:.3g} (step {step})" for step, value in values)
