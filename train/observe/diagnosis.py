"""Why a run diverged or did not learn: what its records show first, how it came about, and what usually helps.

Records tell what was measured, not what caused it; the sentences say no more. Advice is chosen by the kind of the finding
and leaves out what the run does already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train.observe.advice import Finding, Kind, Switches, suggest
from train.observe.layers import LayerInfo
from train.observe.verdict import DEFAULT, Thresholds, Verdict, judge, layer_rows
from train.sinks.contracts import Record
from train.sinks.jsonl import encode_float

FORWARD = ("activation_nonfinite", "activation_std", "activation_mean")
BACKWARD = ("gradient_nonfinite", "gradient_std", "parameter_gradient_norm")
WEIGHTS = ("weight_std", "update_ratio")
SHOWN = 5


@dataclass(frozen=True)
class Limits:
    """From where on a value counts as off. They are heuristics.

    `growth`, `gradient_growth`: relative to the largest of any layer at the start. `large_update`, `small_update`: change of a
    layer's weights in one step, relative to them. `chance`: a loss that never falls below this share of ln(classes), in at
    least `steps` steps, counts as not learning.
    """

    growth: float = 10.0
    gradient_growth: float = 100.0
    large_update: float = 0.3
    small_update: float = 1e-6
    chance: float = 0.98
    steps: int = 50

    def of_growth(self, statistic: str) -> float | None:
        """The limit of a statistic that should stay in its order of magnitude, None for others."""
        if statistic in ("activation_std", "weight_std"):
            return self.growth
        return self.gradient_growth if statistic in ("gradient_std", "parameter_gradient_norm") else None


LIMITS = Limits()


@dataclass(frozen=True)
class Diagnosis:
    """`statistic`, `layer`, `step`: what was off first, empty where nothing was seen to be. `before`: (step, value) of the
    same statistic up to there. `advice`: switches as the user types them."""

    kind: Kind
    finding: Finding
    text: str
    statistic: str = ""
    layer: str = ""
    step: int | None = None
    before: tuple[tuple[int, float], ...] = ()
    advice: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For status.json: NaN and infinities become words, as in metrics.jsonl."""
        before = [[step, encode_float(value)] for step, value in self.before]
        return asdict(self) | {"before": before, "advice": list(self.advice)}


@dataclass(frozen=True)
class _Fault:
    finding: Finding
    statistic: str
    layer: str
    step: int
    said: str

    @property
    def tag(self) -> str:
        return f"{self.statistic}/{self.layer}"


def diagnose(
    records: Sequence[Record],
    classes: int,
    switches: Switches,
    layers: Sequence[LayerInfo] = (),
    thresholds: Thresholds = DEFAULT,
    limits: Limits = LIMITS,
) -> Diagnosis | None:
    """What went wrong in the run that left `records` (of one `metrics.jsonl`, in its order); None when nothing did.

    `layers`: `Observer.layers`, where at hand; else their order is that of the tags.
    """
    losses = [(record.step, record.values["loss/train"]) for record in records if "loss/train" in record.values]
    diverged = any(not math.isfinite(loss) for _, loss in losses)
    if not diverged and not at_chance(losses, classes, limits):
        return None
    observed = [record for record in records if any(tag.startswith(f"{FORWARD[1]}/") for tag in record.values)]
    begin = observed[0] if observed and observed[0].step == 0 else None
    verdict = judge(layer_rows(begin.values, layers), thresholds) if begin else None
    found = [_not_finite(observed), _first_off(observed, thresholds, limits), _initial(verdict, diverged)]
    faults = sorted((fault for fault in found if fault is not None), key=lambda fault: fault.step)
    if not faults and not diverged:
        faults = [fault for fault in [_idle(observed, limits)] if fault is not None]
    return _written("diverged" if diverged else "cannot_learn", faults, observed, losses, classes, switches)


def at_chance(losses: Sequence[tuple[int, float]], classes: int, limits: Limits = LIMITS) -> bool:
    """Whether the training loss, as recorded at (step, loss), never came below that of guessing, ln(classes), by more than
    noise, in a run that was long enough to tell."""
    if len(losses) < 2 or losses[-1][0] < limits.steps:
        return False
    return min(loss for _, loss in losses) >= limits.chance * math.log(classes)


def _not_finite(observed: Sequence[Record]) -> _Fault | None:
    """The first record with a value that is not finite; in it the first such layer forward, else the last backward, else the
    first with such weights."""
    for record in observed:
        for statistics, last in ((FORWARD, False), (BACKWARD, True), (WEIGHTS, False)):
            broken = [pair for pair in _split(record, statistics) if _is_broken(pair[0], record.values["/".join(pair)])]
            if broken:
                layer = broken[-1 if last else 0][1]
                statistic = next(found for found, where in broken if where == layer)
                value = record.values[f"{statistic}/{layer}"]
                said = f"{value:g} values" if statistic.endswith("nonfinite") else f"{statistic} {value:g}"
                return _Fault("not_finite", statistic, layer, record.step, f"not finite ({said})")
    return None


def _is_broken(statistic: str, value: float) -> bool:
    return not math.isfinite(value) or (statistic.endswith("nonfinite") and value > 0)


def _first_off(observed: Sequence[Record], thresholds: Thresholds, limits: Limits) -> _Fault | None:
    """The first record after the first one in which a statistic is beyond its limit, and the one that is furthest beyond."""
    for record in observed[1:]:
        looked = (_off(tag, value, observed[0].values, record.step, thresholds, limits) for tag, value in record.values.items())
        found = [pair for pair in looked if pair is not None]
        if found:
            return max(found, key=lambda pair: pair[0])[1]
    return None


def _off(
    tag: str, value: float, start: Mapping[str, float], step: int, thresholds: Thresholds, limits: Limits
) -> tuple[float, _Fault] | None:
    """How many times its limit a value is, and what to say about it; `start`: the first record's values."""
    if not math.isfinite(value):
        return None
    statistic, _, layer = tag.partition("/")
    growth = limits.of_growth(statistic)
    share = {"activation_dead": thresholds.dead, "activation_saturated": thresholds.saturated}.get(statistic)
    if growth is not None:
        # A layer's own start would not do: where the signal had faded, learning begins with growth.
        largest = max((v for name, v in start.items() if name.startswith(f"{statistic}/") and v > 0), default=math.inf)
        said = f"{value:.3g}, {value / largest:.3g} times the largest of any layer at the start"
        return (value / largest / growth, _Fault("growth", statistic, layer, step, said)) if value >= growth * largest else None
    if statistic == "update_ratio" and value >= limits.large_update:
        said = f"{value:.3g} of the weights in one step"
        return value / limits.large_update, _Fault("large_update", statistic, layer, step, said)
    if share is not None and value >= share > start.get(tag, math.inf):
        said = f"{100 * value:.0f} %, from {100 * start[tag]:.0f} %"
        return value / share, _Fault("dying", statistic, layer, step, said)
    return None


def _initial(verdict: Verdict | None, diverged: bool) -> _Fault | None:
    """What was off before the first update; of a run that diverged, only what is too large rather than too small."""
    if verdict is None or verdict.kind in ("healthy", "broken") or (diverged and "explodes" not in verdict.kind):
        return None
    return _Fault("initial", verdict.statistic, verdict.layer, 0, verdict.sentence)


def _idle(observed: Sequence[Record], limits: Limits) -> _Fault | None:
    """Weights that hardly move, in the record where they move most."""
    moved = [(value, layer, record.step) for record in observed for _, layer, value in _values(record, "update_ratio")]
    if not moved or max(moved)[0] >= limits.small_update:
        return None
    value, layer, step = max(moved)
    return _Fault("small_update", "update_ratio", layer, step, f"{value:.2g} of the weights in one step at most")


def _split(record: Record, statistics: Sequence[str]) -> list[tuple[str, str]]:
    """(statistic, layer) of the record's tags of these statistics, by layer in the order of each statistic's tags."""
    pairs = [
        (statistic, layer) for statistic, _, layer in (tag.partition("/") for tag in record.values) if statistic in statistics
    ]
    places = {layer: place for place, layer in enumerate(dict.fromkeys(layer for _, layer in pairs))}
    return sorted(pairs, key=lambda pair: places[pair[1]])


def _values(record: Record, statistic: str) -> Iterator[tuple[str, str, float]]:
    for tag, value in record.values.items():
        if tag.startswith(f"{statistic}/"):
            yield statistic, tag.partition("/")[2], value


def _written(
    kind: Kind,
    faults: Sequence[_Fault],
    observed: Sequence[Record],
    losses: Sequence[tuple[int, float]],
    classes: int,
    switches: Switches,
) -> Diagnosis:
    """In words: how it ended, what was off first and how that came about, what followed, what usually helps."""
    first = faults[0] if faults else None
    advice = suggest(kind, first.finding if first else "nothing", first.statistic if first else "", switches)
    before = _before(first, observed) if first else ()
    lines = [_ended(kind, losses, classes), *_first_lines(first, before, observed)]
    lines += [f"then: {fault.statistic} of {fault.layer} at step {fault.step}: {fault.said}" for fault in faults[1:]]
    if advice:
        lines.append(f"usually helps: {', '.join(advice)}")
    text = "\n".join(lines)
    if first is None:
        return Diagnosis(kind, "nothing", text, advice=advice)
    return Diagnosis(kind, first.finding, text, first.statistic, first.layer, first.step, before, advice)


def _ended(kind: Kind, losses: Sequence[tuple[int, float]], classes: int) -> str:
    if kind == "cannot_learn":
        best = min(loss for _, loss in losses)
        chance = f"guessing among {classes} classes gives ln({classes}) = {math.log(classes):.3f}"
        return f"it did not learn: in {losses[-1][0]} steps the training loss was never below {best:.3f}; {chance}"
    bad = next(step for step, loss in losses if not math.isfinite(loss))
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)][-SHOWN:]
    history = f"; before: {_series(finite)}" if finite else ""
    return f"it diverged: the training loss recorded at step {bad} is not finite{history}"


def _first_lines(first: _Fault | None, before: Sequence[tuple[int, float]], observed: Sequence[Record]) -> list[str]:
    if first is None:
        if not observed:
            return ["the layers were not observed; observe=basic observe.every=1 shows where it begins"]
        return [f"no layer was off when last looked at, step {observed[-1].step}; observe.every=1 looks at every step"]
    if first.finding == "initial":
        return [f"off before the first update: {first.said}"]
    history = f"; before: {_series(before)}" if before else ""
    return [f"off first: {first.statistic} of {first.layer} at step {first.step}: {first.said}{history}"]


def _before(fault: _Fault, observed: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """The last values of a statistic before it was off; of a count of bad values, those of the std beside it, which say more."""
    tag = {"activation_nonfinite": f"activation_std/{fault.layer}", "gradient_nonfinite": f"gradient_std/{fault.layer}"}
    name = tag.get(fault.statistic, f"{fault.statistic}/{fault.layer}")
    return tuple((r.step, r.values[name]) for r in observed if r.step < fault.step and name in r.values)[-SHOWN:]


def _series(values: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{value:.3g} (step {step})" for step, value in values)
