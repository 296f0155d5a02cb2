"""What step 0 says about the signal: one row per layer, and a verdict in one sentence with numbers.

Both are made from the values of one record, and `Observer.layers` where that is at hand. Without it, layers come in the order
of the tags `activation_std/`, and those that have a `weight_std/` are the weighted ones, all others activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from train.observe.layers import LayerInfo
from train.observe.statistics import SATURATED
from train.observe.theory.recursion import Expected

Kind = Literal["broken", "dead", "saturated", "explodes", "fades", "gradient_explodes", "gradient_fades", "healthy"]
_STD, _NONFINITE, _GRADIENT = "activation_std", "activation_nonfinite", "gradient_std"

MEANING: Mapping[Kind, str] = {
    "broken": "the first loss will not be a number, and no update can repair that",
    "dead": "units that are zero for every image pass on no signal and get no gradient: they do not learn",
    "saturated": "units at the ends of their range hardly react to their input, and hardly any gradient passes them",
    "explodes": "the later layers see numbers of another order of magnitude than the first, so that one learning rate cannot "
    "suit all: the loss is likely to become infinite",
    "fades": "what the network says hardly depends on the image any more, and the gradient, which is made of the same products, "
    "hardly reaches the first layers: it will learn slowly or not at all",
    "gradient_explodes": "the first layers get far larger gradients than the last: a learning rate that is right for the last "
    "throws the first off",
    "gradient_fades": "the first layers get next to no gradient: they stay as they were drawn",
    "healthy": "",
}
"""What follows for training, for people who see such a verdict for the first time."""


@dataclass(frozen=True)
class Thresholds:
    """Where the verdict changes. They are heuristics: rules of thumb, not limits beyond which a net cannot train.

    `fade`, `explode`: std of the last hidden layer relative to the first. `gradient_fade`, `gradient_explode`: std of the
    gradient at the first hidden layer relative to the last. `dead`, `saturated`: share of a layer.
    """

    fade: float = 0.2
    explode: float = 5.0
    gradient_fade: float = 0.01
    gradient_explode: float = 100.0
    dead: float = 0.5
    saturated: float = 0.3

    def describe(self) -> str:
        """One line that says what the verdict's words mean."""
        return (
            f"heuristics: from the first to the last hidden layer, std below x{self.fade:g} fades and above x{self.explode:g} "
            f"explodes; from the last back to the first, gradient std below x{self.gradient_fade:g} fades and above "
            f"x{self.gradient_explode:g} explodes; dead from {100 * self.dead:g} % of a layer's channels, saturated from "
            f"{100 * self.saturated:g} % of its values"
        )


DEFAULT = Thresholds()


@dataclass(frozen=True)
class LayerRow:
    """One layer's output at step 0; None is what was not measured. `weighted`: a convolution or linear layer, else an
    activation, `function`. `ratio`: std relative to the layer of its kind before."""

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
        """Whether values of its output or of the gradient there are not finite."""
        known = [self.std] if self.gradient_std is None else [self.std, self.gradient_std]
        return self.nonfinite > 0 or not all(map(math.isfinite, known))


@dataclass(frozen=True)
class Verdict:
    """`kind` for programs, `sentence` for people; `statistic` and `layer` name the measurement that decided, if one did."""

    kind: Kind
    sentence: str
    statistic: str = ""
    layer: str = ""


def layer_rows(values: Mapping[str, float], layers: Sequence[LayerInfo] = ()) -> list[LayerRow]:
    """The layers of one record whose activation std it holds, in the order in which they run."""
    if layers:
        known = [(layer.name, layer.kind != "activation", layer.function) for layer in layers]
    else:
        names = [tag.partition("/")[2] for tag in values if tag.startswith(f"{_STD}/")]
        known = [(name, f"weight_std/{name.partition('#')[0]}" in values, "") for name in names]
    rows: list[LayerRow] = []
    before: dict[bool, float] = {}
    for name, weighted, function in known:
        std = values.get(f"{_STD}/{name}")
        if std is not None:
            rows.append(_row(name, weighted, function, std, before.get(weighted), values))
            before[weighted] = std
    return rows


def _row(name: str, weighted: bool, function: str, std: float, before: float | None, values: Mapping[str, float]) -> LayerRow:
    return LayerRow(
        layer=name,
        weighted=weighted,
        function=function,
        std=std,
        ratio=std / before if before else None,
        dead=values.get(f"activation_dead/{name}"),
        saturated=values.get(f"activation_saturated/{name}"),
        nonfinite=values.get(f"{_NONFINITE}/{name}", 0) + values.get(f"gradient_nonfinite/{name}", 0),
        gradient_std=values.get(f"{_GRADIENT}/{name}"),
    )


def hidden_rows(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """The layers that are comparable with each other: the activations, or without two of them the weighted layers but the
    last, whose outputs are the logits."""
    activations = [row for row in rows if not row.weighted]
    return activations if len(activations) > 1 else [row for row in rows if row.weighted][:-1]


def judge(rows: Sequence[LayerRow], thresholds: Thresholds = DEFAULT, expected: Sequence[Expected] = ()) -> Verdict:
    """What the rows say, worst first; with what theory expects where `expected` covers it."""
    chain = hidden_rows(rows)
    first = _broken(rows) or _units(rows, thresholds) or _signal(chain, thresholds) or _gradient(chain, thresholds)
    verdict = first or Verdict("healthy", f"healthy: {_trend(chain)}" if chain else _trend(chain))
    more = [] if verdict.kind == "broken" else [_reaching(rows), _theory(rows, chain, expected)]
    return Verdict(verdict.kind, "; ".join(part for part in [verdict.sentence, *more] if part), verdict.statistic, verdict.layer)


def _broken(rows: Sequence[LayerRow]) -> Verdict | None:
    """The first layer that is not finite forward; without one, the last that is not backward, where the gradient comes from."""
    forward = [row for row in rows if not math.isfinite(row.std)]
    backward = [row for row in rows if row.broken]
    if not backward:
        return None
    row = forward[0] if forward else backward[-1]
    what = "outputs" if forward else "gradients"
    sentence = f"broken: {row.layer} is the first layer whose {what} are not all finite"
    return Verdict("broken", sentence, _NONFINITE if forward else "gradient_nonfinite", row.layer)


def _units(rows: Sequence[LayerRow], thresholds: Thresholds) -> Verdict | None:
    """The worst layer whose units are off, or stuck at the ends of their range."""
    dead = [(row.dead, row) for row in rows if row.dead is not None and row.dead >= thresholds.dead]
    if dead:
        share, row = max(dead, key=lambda pair: pair[0])
        others = f" ({len(dead)} layers are above {100 * thresholds.dead:g} %)" if len(dead) > 1 else ""
        sentence = f"dead: {_percent(share)} of the channels of {row.layer} are zero for the whole batch{others}"
        return Verdict("dead", sentence, "activation_dead", row.layer)
    stuck = [(row.saturated, row) for row in rows if row.saturated is not None and row.saturated >= thresholds.saturated]
    if stuck:
        share, row = max(stuck, key=lambda pair: pair[0])
        sentence = f"saturated: {_percent(share)} of the {_outputs(row)}, {_trend(hidden_rows(rows))}"
        return Verdict("saturated", sentence, "activation_saturated", row.layer)
    return None


def _outputs(row: LayerRow) -> str:
    if row.function not in SATURATED:
        return f"outputs of {row.layer} are at the ends of their range"
    centre, distance = SATURATED[row.function]
    return f"{row.function} outputs of {row.layer} are beyond {centre - distance:.2g} and {centre + distance:.2g}"


def _signal(chain: Sequence[LayerRow], thresholds: Thresholds) -> Verdict | None:
    if not chain:
        return None
    start = chain[0].std
    if start == 0:
        return Verdict("fades", f"no signal: the std is 0 at {chain[0].layer}", _STD, chain[0].layer)
    if chain[-1].std < thresholds.fade * start:
        layer = next(row.layer for row in chain if row.std < thresholds.fade * start)
        return Verdict("fades", f"the signal fades: {_trend(chain)}", _STD, layer)
    if chain[-1].std > thresholds.explode * start:
        layer = next(row.layer for row in chain if row.std > thresholds.explode * start)
        return Verdict("explodes", f"the signal explodes: {_trend(chain)}", _STD, layer)
    return None


def _gradient(chain: Sequence[LayerRow], thresholds: Thresholds) -> Verdict | None:
    known = [(row.layer, row.gradient_std) for row in chain if row.gradient_std is not None]
    if len(known) < 2 or known[-1][1] == 0:
        return None
    (first, end), (last, start) = known[0], known[-1]
    change = end / start
    if thresholds.gradient_fade <= change <= thresholds.gradient_explode:
        return None
    fades = change < thresholds.gradient_fade
    rate = f"its std {'falls' if fades else 'grows'} by x{_per_layer(change, len(known))} per layer"
    steps = f"from {two_digits(start)} ({last}) back to {two_digits(end)} ({first})"
    sentence = f"the gradient {'fades' if fades else 'explodes'}: backward {rate}, {steps}, while the signal's {_trend(chain)}"
    return Verdict("gradient_fades" if fades else "gradient_explodes", sentence, _GRADIENT, first)


def _trend(chain: Sequence[LayerRow]) -> str:
    if len(chain) < 2:
        return f"std {two_digits(chain[0].std)} at {chain[0].layer}" if chain else "there are no hidden layers to compare"
    start, end = chain[0].std, chain[-1].std
    change = end / start if start else math.inf
    verb = "falls" if change < 0.95 else "grows" if change > 1.05 else "stays"
    rate = "" if verb == "stays" else f" by x{_per_layer(change, len(chain))} per layer"
    return f"std {verb}{rate}, from {two_digits(start)} ({chain[0].layer}) to {two_digits(end)} ({chain[-1].layer})"


def _reaching(rows: Sequence[LayerRow]) -> str:
    """How much of the gradient at the logits is left at the first weighted layer."""
    known = [(row.layer, row.gradient_std) for row in rows if row.weighted and row.gradient_std is not None]
    if len(known) < 2 or not known[-1][1]:
        return ""
    return f"{two_digits(known[0][1] / known[-1][1])} of the output's gradient std reaches {known[0][0]}"


def _theory(rows: Sequence[LayerRow], chain: Sequence[LayerRow], expected: Sequence[Expected]) -> str:
    """The last hidden layer's std and the first layer's share of the gradient, as theory has them."""
    stds = {one.name: one.std for one in expected if one.std is not None}
    gradients = {one.name: one.gradient_std for one in expected if one.gradient_std is not None}
    last = [row.layer for row in chain if row.layer in stds][-1:]
    first = [row.layer for row in rows if row.weighted and row.gradient_std is not None][:1]
    parts = [f"std {two_digits(stds[layer])} at {layer}" for layer in last]
    parts += [f"{two_digits(gradients[layer])} of the gradient std at {layer}" for layer in first if layer in gradients]
    return f"mean-field theory expects {' and '.join(parts)}" if parts else ""


def two_digits(value: float) -> str:
    """Two significant digits, as in a sentence: 0.49, 12, 3e-05."""
    return f"{value:.2g}"


def _per_layer(change: float, layers: int) -> str:
    return two_digits(change ** (1 / (layers - 1)))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
