"""The verdict on the signal at step 0: one row per layer, and one sentence with numbers.

Both are computed from the values of one record, and from `Observer.layers` if available. Without it, layers come in the order of
the tags `activation_std/`; those with a tag `weight_std/` are weighted layers, all others activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from train.config import ThresholdSettings
from train.observe.contracts import SATURATED, Expected, LayerInfo
from train.tags import join, layers_of, module_of
from train.text import exact_percent, percent, two_digits

Kind = Literal["broken", "dead", "saturated", "explodes", "fades", "gradient_explodes", "gradient_fades", "healthy"]
_STD, _NONFINITE, _GRADIENT = "activation_std", "activation_nonfinite", "gradient_std"

MEANING: Mapping[Kind, str] = {
    "broken": "the first loss will be NaN or infinite, and no update can repair that",
    "dead": "units that are zero for every image pass on no signal and get no gradient: they do not learn",
    "saturated": "units at the ends of their range hardly respond to their input and pass on hardly any gradient",
    "explodes": "later layers get values of a different order of magnitude than the first, so no single learning rate suits all "
    "layers: the loss is likely to become infinite",
    "fades": "the outputs hardly depend on the image any more, and the gradient, a product of the same factors, hardly reaches "
    "the first layers: the network will learn slowly or not at all",
    "gradient_explodes": "the first layers get far larger gradients than the last: a learning rate that suits the last makes the "
    "first diverge",
    "gradient_fades": "the first layers get almost no gradient: they stay close to their initial weights",
    "healthy": "",
}
"""The consequence of each verdict for training, for people who see such a verdict for the first time."""


@dataclass(frozen=True)
class LayerRow:
    """The measurements of one layer's output at step 0; None if not measured.

    `weighted`: the layer is a convolution or linear layer, otherwise the activation `function`. `ratio`: std relative to the
    previous layer of the same kind.
    """

    layer: str
    weighted: bool
    function: str
    std: float
    ratio: float | None
    dead: float | None
    saturated: float | None
    nonfinite: float
    gradient_std: float | None

    @property
    def broken(self) -> bool:
        """Whether the output or its gradient has non-finite values."""
        stds = [self.std] if self.gradient_std is None else [self.std, self.gradient_std]
        return self.nonfinite > 0 or not all(map(math.isfinite, stds))


@dataclass(frozen=True)
class Verdict:
    """The verdict on the signal: `kind` for programs, `sentence` for people.

    `statistic` and `layer` name the measurement that decided; empty if none did.
    """

    kind: Kind
    sentence: str
    statistic: str = ""
    layer: str = ""


def layer_rows(values: Mapping[str, float], layers: Sequence[LayerInfo] = ()) -> list[LayerRow]:
    """Return a row for every layer whose activation std is in the record `values`, in order of execution."""
    if layers:
        described = [(layer.name, layer.kind != "activation", layer.function) for layer in layers]
    else:
        described = [(name, join("weight_std", module_of(name)) in values, "") for name in layers_of(_STD, values)]
    rows: list[LayerRow] = []
    previous: dict[bool, float] = {}
    for name, weighted, function in described:
        std = values.get(join(_STD, name))
        if std is not None:
            rows.append(_row(name, weighted, function, std, previous.get(weighted), values))
            previous[weighted] = std
    return rows


def _row(name: str, weighted: bool, function: str, std: float, previous: float | None, values: Mapping[str, float]) -> LayerRow:
    return LayerRow(
        layer=name,
        weighted=weighted,
        function=function,
        std=std,
        ratio=std / previous if previous else None,
        dead=values.get(join("activation_dead", name)),
        saturated=values.get(join("activation_saturated", name)),
        nonfinite=values.get(join(_NONFINITE, name), 0) + values.get(join("gradient_nonfinite", name), 0),
        gradient_std=values.get(join(_GRADIENT, name)),
    )


def hidden_rows(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Return the layers that are comparable with each other.

    These are the activations, or if there are fewer than two, the weighted layers except the last, whose outputs are the logits.
    """
    activations = [row for row in rows if not row.weighted]
    return activations if len(activations) > 1 else [row for row in rows if row.weighted][:-1]


def judge(rows: Sequence[LayerRow], thresholds: ThresholdSettings, expected: Sequence[Expected] = ()) -> Verdict:
    """Return the verdict on the worst problem in the rows, with the values that theory expects where `expected` has them."""
    chain = hidden_rows(rows)
    problem = (
        _broken(rows)
        or _units(rows, thresholds)
        or _signal(chain, thresholds)
        or _no_gradient(rows)
        or _gradient(chain, thresholds)
    )
    verdict = problem or Verdict("healthy", f"healthy: {_trend(chain)}" if chain else _trend(chain))
    details = [] if verdict.kind == "broken" else [_reaching(rows, chain), _theory(chain, expected)]
    return Verdict(
        verdict.kind, "; ".join(part for part in [verdict.sentence, *details] if part), verdict.statistic, verdict.layer
    )


def _broken(rows: Sequence[LayerRow]) -> Verdict | None:
    """Return the verdict on the first layer with non-finite outputs, else on the last with non-finite gradients.

    The last, because the backward pass starts there.
    """
    forward = [row for row in rows if not math.isfinite(row.std)]
    backward = [row for row in rows if row.broken]
    if not backward:
        return None
    row = forward[0] if forward else backward[-1]
    values = "outputs" if forward else "gradients"
    sentence = f"broken: {row.layer} is the first layer whose {values} are not all finite"
    return Verdict("broken", sentence, _NONFINITE if forward else "gradient_nonfinite", row.layer)


def _units(rows: Sequence[LayerRow], thresholds: ThresholdSettings) -> Verdict | None:
    """Return the verdict on the layer with the largest share of dead units, else of saturated ones."""
    dead = [(row.dead, row) for row in rows if row.dead is not None and row.dead >= thresholds.dead]
    if dead:
        share, row = max(dead, key=lambda pair: pair[0])
        others = f" ({len(dead)} layers are above {exact_percent(thresholds.dead)})" if len(dead) > 1 else ""
        sentence = f"dead: {percent(share, 0)} of the channels of {row.layer} are zero for the whole batch{others}"
        return Verdict("dead", sentence, "activation_dead", row.layer)
    stuck = [(row.saturated, row) for row in rows if row.saturated is not None and row.saturated >= thresholds.saturated]
    if stuck:
        share, row = max(stuck, key=lambda pair: pair[0])
        sentence = f"saturated: {percent(share, 0)} of the {_outputs(row)}, {_trend(hidden_rows(rows))}"
        return Verdict("saturated", sentence, "activation_saturated", row.layer)
    return None


def _outputs(row: LayerRow) -> str:
    if row.function not in SATURATED:
        return f"outputs of {row.layer} are at the ends of their range"
    centre, distance = SATURATED[row.function]
    low, high = two_digits(centre - distance), two_digits(centre + distance)
    return f"{row.function} outputs of {row.layer} are below {low} or above {high}"


def _signal(chain: Sequence[LayerRow], thresholds: ThresholdSettings) -> Verdict | None:
    if not chain:
        return None
    start = chain[0].std
    if start == 0:
        return Verdict("fades", f"no signal: the std is 0 at {chain[0].layer}", _STD, chain[0].layer)
    if chain[-1].std < thresholds.fade * start:
        layer = next(row.layer for row in chain if row.std < thresholds.fade * start)
        return Verdict("fades", f"the signal fades: {_trend(chain, exact=True)}", _STD, layer)
    if chain[-1].std > thresholds.explode * start:
        layer = next(row.layer for row in chain if row.std > thresholds.explode * start)
        return Verdict("explodes", f"the signal explodes: {_trend(chain, exact=True)}", _STD, layer)
    return None


def _no_gradient(rows: Sequence[LayerRow]) -> Verdict | None:
    """Return the verdict on a gradient of exactly 0 at the first or the last layer; a branch between them may start at 0."""
    measured = [row for row in rows if row.gradient_std is not None]
    if not measured or (measured[0].gradient_std and measured[-1].gradient_std):
        return None
    row = next(row for row in reversed(measured) if row.gradient_std == 0)  # the backward pass starts at the end
    return Verdict("gradient_fades", f"no gradient: its std is 0 at {row.layer}", _GRADIENT, row.layer)


def _gradient(chain: Sequence[LayerRow], thresholds: ThresholdSettings) -> Verdict | None:
    gradients = _gradients(chain)
    if len(gradients) < 2 or gradients[-1][1] == 0:
        return None
    (first, end), (last, start) = gradients[0], gradients[-1]
    change = end / start
    if thresholds.gradient_fade <= change <= thresholds.gradient_explode:
        return None
    fades = change < thresholds.gradient_fade
    rate = f"its std {'falls' if fades else 'grows'} by x{_per_layer(change, len(gradients))} per layer"
    steps = f"from {two_digits(start)} ({last}) back to {two_digits(end)} ({first})"
    sentence = f"the gradient {'fades' if fades else 'explodes'}: backward {rate}, {steps}, while the signal's {_trend(chain)}"
    return Verdict("gradient_fades" if fades else "gradient_explodes", sentence, _GRADIENT, first)


def _gradients(chain: Sequence[LayerRow]) -> list[tuple[str, float]]:
    return [(row.layer, row.gradient_std) for row in chain if row.gradient_std is not None]


def _trend(chain: Sequence[LayerRow], exact: bool = False) -> str:
    """Return how the std changes along the chain. `exact`: by which rate, also where two digits of it are 1."""
    if len(chain) < 2:
        return f"std {two_digits(chain[0].std)} at {chain[0].layer}" if chain else "there are no hidden layers to compare"
    start, end = chain[0].std, chain[-1].std
    change = end / start if start else math.inf
    if not exact and two_digits(change ** (1 / (len(chain) - 1))) == "1":
        verb = "stays about the same per layer"
    else:
        verb = f"{'falls' if change < 1 else 'grows'} by x{_per_layer(change, len(chain))} per layer"
    return f"std {verb}, from {two_digits(start)} ({chain[0].layer}) to {two_digits(end)} ({chain[-1].layer})"


def _reaching(rows: Sequence[LayerRow], chain: Sequence[LayerRow]) -> str:
    """Return the number that `_gradient` judges, the share of the gradient std at the last hidden layer that reaches the first.

    What the head and the pooling before it do to the gradient is a note: a mean over the positions of an image divides it.
    """
    gradients = _gradients(chain)
    if len(gradients) < 2 or gradients[-1][1] == 0:
        return ""
    (first, end), (last, start) = gradients[0], gradients[-1]
    text = f"{two_digits(end / start)} of the gradient std at {last} reaches {first}"
    head = rows[-1]
    if head.layer == last or not head.gradient_std:
        return text
    share = two_digits(start / head.gradient_std)
    return f"{text} (not judged: the head, and any pooling before it, pass on {share} of the output's)"


def _theory(chain: Sequence[LayerRow], expected: Sequence[Expected]) -> str:
    """Return the last hidden layer's std and the share of its gradient std that reaches the first according to theory."""
    stds = {layer.name: layer.std for layer in expected if layer.std is not None}
    gradients = {layer.name: layer.gradient_std for layer in expected if layer.gradient_std}
    parts = [f"std {two_digits(stds[layer])} at {layer}" for layer in [row.layer for row in chain if row.layer in stds][-1:]]
    if len(ends := _gradients(chain)) > 1 and (first := ends[0][0]) in gradients and (last := ends[-1][0]) in gradients:
        parts.append(f"{two_digits(gradients[first] / gradients[last])} of the gradient std at {first}")
    return f"mean-field theory expects {' and '.join(parts)}" if parts else ""


def describe(thresholds: ThresholdSettings) -> str:
    """Return one line that defines the words of the verdict."""
    return (
        f"heuristics: last hidden layer relative to the first: std below x{thresholds.fade:g} fades, "
        f"above x{thresholds.explode:g} explodes; first relative to the last: gradient std below x{thresholds.gradient_fade:g} "
        f"fades, above x{thresholds.gradient_explode:g} explodes; dead from {exact_percent(thresholds.dead)} of a layer's "
        f"channels, saturated from {exact_percent(thresholds.saturated)} of its values"
    )


def _per_layer(change: float, layers: int) -> str:
    """Return the factor of one layer with two digits, or as many as tell it from 1."""
    rate = change ** (1 / (layers - 1))
    return next((text for digits in range(2, 6) if (text := f"{rate:.{digits}g}") != "1"), "1")
