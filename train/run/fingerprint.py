"""The fingerprint of a run: evidence that the chosen ingredients are in its model, optimizer and data.

It is plain data for summary.json. `train.run.contradictions` turns mismatches into sentences.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from train.config import Settings
from train.data.contracts import Batch
from train.data.preprocess import Preprocess
from train.observe.observer import is_activation
from train.parts.contracts import NormFactory
from train.parts.init import Layer, fans
from train.parts.regularization import Regularization
from train.run.build import Parts

Fingerprint = dict[str, Any]
_NAMES = 6


def fingerprint(
    model: nn.Module, settings: Settings, parts: Parts, optimizer: torch.optim.Optimizer, batch: Batch, preprocess: Preprocess
) -> Fingerprint:
    """Return each choice (key `chosen`) beside what the model, the optimizer and the data contain. Changes nothing.

    Call it before the first train step: `model` directly after the init, `batch` of epoch 0 and step 0.
    """
    return {
        "norm": norms(model, parts, chosen_name(settings, "norm")),
        "activation": activations(model, parts, settings.parts["model"].get("activation")),
        "dropout": drop_rates(model, parts.regularization),
        "weight_decay": decay(model, parts.regularization, optimizer),
        "init": {"chosen": chosen_name(settings, "init"), "layers": weights(model, getattr(parts.init, "requested_std", None))},
        "first_batch": first_batch(batch),
        "preprocess": preprocess.describe(),
    }


def chosen_name(settings: Settings, group: str) -> str:
    """Return the name of the function chosen in a config group, such as `batch` for norm=batch."""
    return str(settings.parts[group]["_target_"]).rpartition(".")[2]


def norms(model: nn.Module, parts: Parts, chosen: str) -> Fingerprint:
    """Count norm layers by type (`built`: of the chosen norm's types, `others`: the rest) and biases in front of a norm."""
    chosen_types = _types_of(parts.norm, model) if parts.norm is not None else set()
    modules = list(_outermost(model, lambda module: type(module) in chosen_types or is_norm(module)))
    built = [module for module in modules if type(module) in chosen_types]
    return {
        "chosen": chosen,
        "asked": parts.norm is not None,
        "built": _by_type(built),
        "others": _by_type(module for module in modules if type(module) not in chosen_types),
        "biases_before": biases_before(model, modules, parts.input_shape),
    }


def is_norm(module: nn.Module) -> bool:
    """Return whether the class name ends in Norm, Norm2d or the like, as torch's and this package's norms do."""
    return re.search(r"Norm(\dd)?$", type(module).__name__) is not None


def activations(model: nn.Module, parts: Parts, chosen: str | None) -> Fingerprint:
    """Count activation modules by type; `expected` is the type that `model.activation` names."""
    expected = None if parts.activation is None else type(parts.activation()).__name__
    modules = [m for m in model.modules() if is_activation(m) or type(m).__name__ == expected]
    return {"chosen": chosen, "expected": expected, "built": _by_type(modules)}


def drop_rates(model: nn.Module, regularization: Regularization) -> Fingerprint:
    """Count dropout modules by probability. Stochastic depth, which drops whole branches, is counted separately."""
    depth = [module for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    dropouts = [module for module in model.modules() if isinstance(module, _DropoutNd)]
    return {"chosen": regularization.dropout, "modules": _by_p(dropouts), "stochastic_depth": _by_p(depth)}


def decay(model: nn.Module, regularization: Regularization, optimizer: torch.optim.Optimizer) -> Fingerprint:
    """List the parameters with and without weight decay, and the trainable ones that are not in the optimizer."""
    rates = {id(p): float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {
        "chosen": regularization.weight_decay,
        "rates": sorted({rate for rate in rates.values() if rate > 0}),
        "decayed": _parameters((name, p) for name, p in named if rates.get(id(p), 0.0) > 0),
        "not_decayed": _parameters((name, p) for name, p in named if rates.get(id(p)) == 0.0),
        "not_in_optimizer": _parameters((name, p) for name, p in named if id(p) not in rates),
    }


@torch.no_grad()
def weights(model: nn.Module, requested_std: Callable[[Layer], float] | None) -> dict[str, Fingerprint]:
    """Return for each layer the std of its weight, its fans, std * sqrt(fan_in) (1: Xavier, sqrt 2: He) and the requested std."""
    table: dict[str, Fingerprint] = {}
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            fan_in, fan_out = fans(module)
            std = module.weight.float().square().mean().sqrt().item()  # about 0: every init has mean 0
            table[name] = {
                "std": _rounded(std),
                "requested_std": None if requested_std is None else _rounded(requested_std(module)),
                "fan_in": fan_in,
                "fan_out": fan_out,
                "std_sqrt_fan_in": _rounded(std * math.sqrt(fan_in)),
                "count": module.weight.numel(),
            }
    return table


def first_batch(batch: Batch) -> Fingerprint:
    """Return shape, mean, std and SHA-256 of the first batch as the model receives it.

    The hash covers the bytes of the images, in the order [N, C, H, W], then those of the labels.
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
    }


def biases_before(model: nn.Module, norm_layers: Iterable[nn.Module], shape: tuple[int, int, int]) -> int | None:
    """Count the layers with a bias whose output a norm reads directly, so that the norm subtracts or absorbs the bias.

    Takes one forward on the meta device; `shape` is [C, H, W]. None if the model cannot run there.
    """
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}  # the reference keeps the tensor's id from being reused
    layers: set[nn.Module] = set()

    def after_layer(module: nn.Module, _: Any, output: Tensor) -> None:
        root = _root(output)
        outputs[id(root)] = (root, module)

    def before_norm(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        source = outputs.get(id(_root(inputs[0]))) if inputs else None
        if source is not None and getattr(source[1], "bias", None) is not None:
            layers.add(source[1])

    handles = [m.register_forward_hook(after_layer) for m in model.modules() if isinstance(m, Layer)]
    handles += [m.register_forward_pre_hook(before_norm) for m in norm_layers]
    modes = {module: module.training for module in model.modules()}
    tensors = {name: t.detach().to("meta") for name, t in (*model.named_parameters(), *model.named_buffers())}
    try:
        with torch.no_grad():
            torch.func.functional_call(model.eval(), tensors, (torch.empty(2, *shape, device="meta"),))
    except (RuntimeError, ValueError, TypeError):
        return None
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return len(layers)


def _root(x: Tensor) -> Tensor:
    """Return the tensor that `x` is a view of, or `x` itself."""
    return x if x._base is None else x._base


def _types_of(norm: NormFactory, model: nn.Module) -> set[type[nn.Module]]:
    """Return the types of the modules that a norm factory builds, without containers; empty if it fails on the meta device."""
    for channels in sorted({module.weight.shape[0] for module in model.modules() if isinstance(module, Layer)}):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                module = norm(channels)
        except Exception:  # a user's norm may refuse this number of channels; another layer's may fit
            continue
        types = {type(part) for part in module.modules()}
        return types if len(types) == 1 else types - {nn.Sequential, nn.Identity}
    return set()


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
