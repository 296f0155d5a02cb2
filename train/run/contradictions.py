"""Choices that are not in the run: a model receives norm, dropout and activation as arguments and may ignore them, which
nothing else would notice. Starts without torch, so that a report can ask the same of an old run's summary.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Fingerprint = Mapping[str, Any]
WEIGHT_TOLERANCE = 0.1
"""How far a layer's weight std may be off what the init requests, beyond what the draw of so many weights explains."""
STANDARD_ERRORS = 5
_NAMES = 6


def contradictions(found: Fingerprint) -> list[str]:
    """One sentence for each choice that the run does not hold: what was chosen, what was found. Empty when all is well."""
    checks = (_norm_missing, _activation_missing, _dropout_missing, _decay_missing, _weights_off)
    return [sentence for check in checks for sentence in check(found)]


def _norm_missing(found: Fingerprint) -> list[str]:
    norm = found["norm"]
    others = _listed(norm["others"])
    if not norm["asked"]:
        return [f"norm={norm['chosen']}, but the model holds norm layers: {others}."] if others else []
    if not norm["built"]:
        instead = f"it holds {others} instead" if others else "it holds no norm layer at all"
        return [f"norm={norm['chosen']}, but the model builds none: {instead}. Does the model use its argument `norm`?"]
    if others:
        return [f"norm={norm['chosen']} built {_listed(norm['built'])}, but the model also holds {others}."]
    return []


def _activation_missing(found: Fingerprint) -> list[str]:
    activation = found["activation"]
    if activation["expected"] is None or activation["expected"] in activation["built"]:
        return []
    instead = _listed(activation["built"]) or "no activation module"
    return [f"model.activation={activation['chosen']}, but the model holds {instead}. Does it use its argument `activation`?"]


def _dropout_missing(found: Fingerprint) -> list[str]:
    chosen, modules = found["dropout"]["chosen"], found["dropout"]["modules"]
    rates = {float(p): count for p, count in modules.items()}
    wrong = ", ".join(f"{count} with p={p:g}" for p, count in rates.items() if p != chosen)
    if chosen > 0 and chosen not in rates:
        instead = f"dropout modules {wrong}" if wrong else "no dropout module"
        return [f"regularization.dropout={chosen:g}, but the model holds {instead}. Does it use its argument `dropout`?"]
    if any(p not in (chosen, 0.0) for p in rates):
        return [f"regularization.dropout={chosen:g}, but the model also holds dropout modules {wrong}."]
    return []


def _decay_missing(found: Fingerprint) -> list[str]:
    decayed, sentences = found["weight_decay"], []
    chosen, rates = decayed["chosen"], decayed["rates"]
    if chosen > 0 and not decayed["decayed"]["tensors"]:
        sentences.append(f"regularization.weight_decay={chosen:g}, but no parameter decays.")
    elif any(rate != chosen for rate in rates):
        listed = ", ".join(f"{rate:g}" for rate in rates)
        sentences.append(f"regularization.weight_decay={chosen:g}, but the optimizer decays with {listed}.")
    missing = decayed["not_in_optimizer"]
    if missing["tensors"]:
        names = ", ".join(missing["names"])
        sentences.append(f"{missing['tensors']} trainable parameters are not in the optimizer and stay as they are: {names}.")
    return sentences


def _weights_off(found: Fingerprint) -> list[str]:
    off: list[str] = []
    for name, layer in found["init"]["layers"].items():
        requested = layer["requested_std"]
        if requested is None:
            continue
        tolerance = max(WEIGHT_TOLERANCE, STANDARD_ERRORS / math.sqrt(2 * layer["count"]))
        if layer["std"] is None:
            off.append(f"{name} not finite")
        elif abs(layer["std"] - requested) > tolerance * requested:
            off.append(f"{name} {layer['std']:.3g} instead of {requested:.3g}")
    if not off:
        return []
    more = f" and {len(off) - _NAMES} more" if len(off) > _NAMES else ""
    which = "; ".join(off[:_NAMES])
    return [f"init={found['init']['chosen']}, but the weight std of {len(off)} layers is not what it requests: {which}{more}."]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
