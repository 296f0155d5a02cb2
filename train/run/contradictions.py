"""Checks that find chosen ingredients missing from a run.

A model receives norm, dropout and activation as arguments and may ignore them; nothing else would notice. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Fingerprint = Mapping[str, Any]
WEIGHT_TOLERANCE = 0.1
"""Relative tolerance of a layer's weight std against the one that the init requests. Small layers get `STANDARD_ERRORS`."""
STANDARD_ERRORS = 5
"""Tolerance for layers with few weights, in standard errors of their std: 1 / sqrt(2 count) each, relative."""
_NAMES = 6


def contradictions(fingerprint: Fingerprint) -> list[str]:
    """Return one sentence for each choice that is not in the run: what was chosen and what was found. Empty if all are."""
    checks = (
        _check_norm,
        _check_activation,
        _check_dropout,
        _check_depth,
        _check_decay,
        _check_averaging,
        _check_second_pass,
        _check_weights,
    )
    return [sentence for check in checks for sentence in check(fingerprint)]


def _check_norm(fingerprint: Fingerprint) -> list[str]:
    norm = fingerprint["norm"]
    others = _listed(norm["others"])
    if not norm["asked"]:
        return [f"norm={norm['chosen']}, but the model contains norm layers: {others}."] if others else []
    if not norm["built"]:
        instead = f"it contains {others} instead" if others else "it contains no norm layer"
        return [
            f"norm={norm['chosen']}, but the model contains no such layer: {instead}. Does the model use its argument `norm`?"
        ]
    if others:
        return [f"norm={norm['chosen']} built {_listed(norm['built'])}, but the model also contains {others}."]
    return []


def _check_activation(fingerprint: Fingerprint) -> list[str]:
    activation = fingerprint["activation"]
    if activation["expected"] is None or activation["expected"] in activation["built"]:
        return []
    instead = _listed(activation["built"]) or "no activation module"
    return [f"model.activation={activation['chosen']}, but the model contains {instead}. Does it use its argument `activation`?"]


def _check_dropout(fingerprint: Fingerprint) -> list[str]:
    chosen, modules = fingerprint["dropout"]["chosen"], fingerprint["dropout"]["modules"]
    rates = {float(p): count for p, count in modules.items()}
    wrong = ", ".join(f"{count} with p={p:g}" for p, count in rates.items() if p != chosen)
    if chosen > 0 and chosen not in rates:
        instead = f"dropout modules {wrong}" if wrong else "no dropout module"
        return [f"regularization.dropout={chosen:g}, but the model contains {instead}. Does it use its argument `dropout`?"]
    if any(p not in (chosen, 0.0) for p in rates):
        return [f"regularization.dropout={chosen:g}, but the model also contains dropout modules {wrong}."]
    return []


def _check_depth(fingerprint: Fingerprint) -> list[str]:
    """The largest probability is the chosen one. Architectures that bring their own are left alone."""
    chosen, modules = fingerprint["dropout"]["chosen_depth"], fingerprint["dropout"]["stochastic_depth"]
    largest = max(map(float, modules), default=0.0)
    if chosen > 0 and not math.isclose(largest, chosen, rel_tol=1e-4):
        found = (
            f"the largest probability in the model is {largest:g}" if modules else "the model contains no StochasticDepth module"
        )
        return [f"regularization.stochastic_depth={chosen:g}, but {found}. Does the model use its argument `stochastic_depth`?"]
    return []


def _check_decay(fingerprint: Fingerprint) -> list[str]:
    decay, sentences = fingerprint["weight_decay"], []
    chosen, rates = decay["chosen"], decay["rates"]
    if chosen > 0 and not decay["decayed"]["tensors"]:
        sentences.append(f"regularization.weight_decay={chosen:g}, but no parameter has weight decay.")
    elif any(rate != chosen for rate in rates):
        listed = ", ".join(f"{rate:g}" for rate in rates)
        sentences.append(f"regularization.weight_decay={chosen:g}, but the optimizer uses {listed}.")
    missing = decay["not_in_optimizer"]
    if missing["tensors"]:
        names = ", ".join(missing["names"])
        sentences.append(f"{missing['tensors']} trainable parameters are not in the optimizer and never change: {names}.")
    return sentences


def _check_averaging(fingerprint: Fingerprint) -> list[str]:
    averaging = fingerprint["averaging"]
    if averaging["chosen"] > 0 and not (averaging["averaged"]["tensors"] and averaging["decay"] == averaging["chosen"]):
        return [f"regularization.ema_decay={averaging['chosen']:g}, but no such average of the weights is scored."]
    return []


def _check_second_pass(fingerprint: Fingerprint) -> list[str]:
    chosen, radius = fingerprint["second_pass"]["chosen"], fingerprint["second_pass"]["radius"]
    if chosen > 0 and chosen != radius:
        return [f"regularization.sam_radius={chosen:g}, but the train step makes no such second pass."]
    return []


def _check_weights(fingerprint: Fingerprint) -> list[str]:
    wrong: list[str] = []
    for name, layer in fingerprint["init"]["layers"].items():
        requested = layer["requested_std"]
        if requested is None:
            continue
        tolerance = max(WEIGHT_TOLERANCE, STANDARD_ERRORS / math.sqrt(2 * layer["count"]))
        if layer["std"] is None:
            wrong.append(f"{name} not finite")
        elif abs(layer["std"] - requested) > tolerance * requested:
            wrong.append(f"{name} {layer['std']:.3g} instead of {requested:.3g}")
    if not wrong:
        return []
    more = f" and {len(wrong) - _NAMES} more" if len(wrong) > _NAMES else ""
    names = "; ".join(wrong[:_NAMES])
    return [f"init={fingerprint['init']['chosen']}, but {len(wrong)} layers do not have the requested weight std: {names}{more}."]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
