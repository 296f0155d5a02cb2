"""The fingerprint of a run: evidence that the chosen ingredients are in its model, optimizer and data.

It is plain data for summary.json. `train.run.contradictions` turns mismatches into sentences.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from train.config import Settings
from train.data.contracts import Batch, Dataset, Decoded
from train.data.preprocess import Preprocess
from train.parts.contracts import Average, OwnInit, SecondPass
from train.parts.init import fans, scaled_last_norms
from train.parts.kinds import Layer, is_activation, is_norm
from train.parts.model.trace import Call, layers_before
from train.parts.norm import StandardizedConv2d
from train.parts.regularization import Regularization
from train.run.build import Parts
from train.run.contradictions import contradictions

Fingerprint = dict[str, Any]
_NAMES = 6


def fingerprint(
    model: nn.Module,
    calls: Sequence[Call],
    settings: Settings,
    parts: Parts,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    preprocess: Preprocess,
    average: Average | None = None,
    second_pass: SecondPass | None = None,
) -> Fingerprint:
    """Return each choice (key `chosen`) beside what the model, the optimizer and the data contain. Changes nothing.

    Call it before the first train step: `model` directly after the init, `calls` as `trace` returned them, `batch` of epoch 0
    and step 0.
    """
    return {
        "augment": [type(op).__name__ for op in parts.pipeline.ops],
        "norm": norms(model, calls, parts, chosen_name(settings, "norm")),
        "activation": activations(model, parts, settings.parts["model"].get("activation")),
        "dropout": drop_rates(model, parts.regularization),
        "learning_rate": rates(model, optimizer),
        "averaging": averaging(average, parts.regularization),
        "second_pass": {"chosen": parts.regularization.sam_radius, "radius": getattr(second_pass, "radius", None)},
        "weight_decay": decay(model, parts.regularization, optimizer),
        "init": {
            "chosen": chosen_name(settings, "init"),
            "zero_gammas": sum(not gamma.any() for gamma in scaled_last_norms(model)),
            "layers": weights(model, requested_std(model, parts)),
        },
        "first_batch": first_batch(batch),
        "preprocess": preprocess.describe(),
        **decoding(parts.dataset),
    }


def evidence(found: Fingerprint) -> dict[str, Any]:
    """Return a fingerprint and the contradictions to it, as summary.json has them."""
    return {"fingerprint": found, "contradictions": contradictions(found)}


def decoding(dataset: Dataset) -> Fingerprint:
    """Return how image files are decoded; nothing for the usual way."""
    facts = dataset.decoding_facts() if isinstance(dataset, Decoded) else {}
    return {"decoding": dict(facts)} if facts else {}


def chosen_name(settings: Settings, group: str) -> str:
    """Return the name of the function chosen in a config group, such as `batch` for norm=batch."""
    return str(settings.parts[group]["_target_"]).rpartition(".")[2]


def norms(model: nn.Module, calls: Sequence[Call], parts: Parts, chosen: str) -> Fingerprint:
    """Count norm layers by type (`built`: of types that the chosen norm made, `others`: the rest) and biases in front of a norm.

    Such a bias is of a layer whose output a norm reads directly, so that the norm subtracts or absorbs the bias.
    `scales`, `shifts`: how many of those built have a gamma and a beta; `synchronized`: how many of them take the statistics of
    the whole batch on several devices.
    """
    chosen_types = set() if parts.norm is None else parts.norm.types
    modules = list(_outermost(model, lambda module: type(module) in chosen_types or is_norm(module)))
    built = [module for module in modules if type(module) in chosen_types]
    before = {call.module for call in layers_before(calls, modules)}
    return {
        "chosen": chosen,
        "asked": parts.norm is not None,
        "built": _by_type(built),
        "others": _by_type(module for module in modules if type(module) not in chosen_types),
        "scales": sum(getattr(module, "weight", None) is not None for module in built),
        "shifts": sum(getattr(module, "bias", None) is not None for module in built),
        "synchronized": sum(bool(getattr(module, "sync", False)) for module in built),
        "standardized_convolutions": sum(isinstance(module, StandardizedConv2d) for module in model.modules()),
        "biases_before": sum(getattr(layer, "bias", None) is not None for layer in before),
    }


def activations(model: nn.Module, parts: Parts, chosen: str | None) -> Fingerprint:
    """Count activation modules by type; `expected` is the type that `model.activation` names."""
    expected = None if parts.activation is None else type(parts.activation()).__name__
    modules = [m for m in model.modules() if is_activation(m) or type(m).__name__ == expected]
    return {"chosen": chosen, "expected": expected, "built": _by_type(modules)}


def drop_rates(model: nn.Module, regularization: Regularization) -> Fingerprint:
    """Count dropout modules by probability. Stochastic depth, which drops whole branches, is counted separately."""
    depth = [module for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    dropouts = [module for module in model.modules() if isinstance(module, _DropoutNd)]
    return {
        "chosen": regularization.dropout,
        "modules": _by_p(dropouts),
        "chosen_depth": regularization.stochastic_depth,
        "stochastic_depth": _by_p(depth),
    }


def decay(model: nn.Module, regularization: Regularization, optimizer: torch.optim.Optimizer) -> Fingerprint:
    """List the parameters with and without weight decay, those that do not train, and others that are not in the optimizer."""
    rates = {id(p): float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {
        "chosen": regularization.weight_decay,
        "rates": sorted({rate for rate in rates.values() if rate > 0}),
        "decayed": _parameters((name, p) for name, p in named if rates.get(id(p), 0.0) > 0),
        "not_decayed": _parameters((name, p) for name, p in named if rates.get(id(p)) == 0.0),
        "frozen": _parameters((name, p) for name, p in model.named_parameters() if not p.requires_grad),
        "not_in_optimizer": _parameters((name, p) for name, p in named if id(p) not in rates),
    }


def averaging(average: Average | None, regularization: Regularization) -> Fingerprint:
    """List the parameters whose average is scored, and the memory of that average as it was built."""
    followed = [] if average is None else average.module.named_parameters()
    return {"chosen": regularization.ema_decay, "decay": getattr(average, "decay", None), "averaged": _parameters(followed)}


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Fingerprint]:
    """List the parameters of each learning rate of the optimizer, before the schedule."""
    found = {id(p): f"{float(group['lr']):g}" for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in found]
    return {rate: _parameters((name, p) for name, p in named if found[id(p)] == rate) for rate in dict.fromkeys(found.values())}


def requested_std(model: nn.Module, parts: Parts) -> Callable[[Layer], float | None]:
    """Return what tells the std of a layer's weights that init and model ask for; None where neither says."""
    of_init = getattr(parts.init, "requested_std", None)

    def requested(layer: Layer) -> float | None:
        factor = model.init_factor(layer) if isinstance(model, OwnInit) else 1.0
        return None if of_init is None or factor is None else factor * of_init(layer)

    return requested


@torch.no_grad()
def weights(model: nn.Module, requested_std: Callable[[Layer], float | None]) -> dict[str, Fingerprint]:
    """Return for each layer the std of its weight, its fans, std * sqrt(fan_in) (1: Xavier, sqrt 2: He) and the requested std."""
    table: dict[str, Fingerprint] = {}
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            fan_in, fan_out = fans(module)
            std = module.weight.float().square().mean().sqrt().item()  # about 0: every init has mean 0
            table[name] = {
                "std": _rounded(std),
                "requested_std": None if (requested := requested_std(module)) is None else _rounded(requested),
                "fan_in": fan_in,
                "fan_out": fan_out,
                "std_sqrt_fan_in": _rounded(std * math.sqrt(fan_in)),
                "count": module.weight.numel(),
            }
    return table


def first_batch(batch: Batch) -> Fingerprint:
    """Return shape, mean, std and SHA-256 of the first batch as the model receives it.

    `own_share`: of mixed images, the mean share of their own label. The hash covers the bytes of the images, in the order
    [N, C, H, W], then those of the labels.
    """
    images, labels = batch.images.detach().cpu().contiguous(), batch.labels.cpu().contiguous()
    digest = hashlib.sha256(images.numpy().tobytes())
    digest.update(labels.numpy().tobytes())
    std, mean = torch.std_mean(images.double(), correction=0)
    return {
        "sha256": digest.hexdigest(),
        "shape": list(images.shape),
        "mean": _rounded(mean.item()),
        "std": _rounded(std.item()),
        "own_share": None if batch.mixed is None else _rounded(batch.mixed.share.mean().item()),
    }


def _outermost(module: nn.Module, wanted: Callable[[nn.Module], bool]) -> Iterable[nn.Module]:
    """Yield each wanted module that is not part of another wanted one, once."""
    visited: set[nn.Module] = set()

    def walk(part: nn.Module) -> Iterable[nn.Module]:
        if part in visited:
            return
        visited.add(part)
        if wanted(part):
            yield part
            return
        for child in part.children():
            yield from walk(child)

    return walk(module)


def _by_type(modules: Iterable[nn.Module]) -> dict[str, int]:
    return dict(Counter(type(module).__name__ for module in modules))


def _by_p(modules: Iterable[nn.Module]) -> dict[str, int]:
    return dict(Counter(f"{float(getattr(module, 'p', math.nan)):g}" for module in modules))


def _parameters(named: Iterable[tuple[str, Tensor]]) -> Fingerprint:
    """Return the numbers of tensors and values, and the first and last names."""
    pairs = list(named)
    names = [name for name, _ in pairs]
    if len(names) > _NAMES:
        names = [*names[: _NAMES // 2], "...", *names[-_NAMES // 2 :]]
    return {"tensors": len(pairs), "values": sum(p.numel() for _, p in pairs), "names": names}


def _rounded(value: float) -> float | None:
    """Round to six significant digits; None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
