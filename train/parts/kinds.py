"""What a weighted layer, a norm and an activation are: one definition for inits, models, observers and the fingerprint."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd

Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""The layers whose weights an init draws, subclasses included."""

WeightedLayer: TypeAlias = nn.Linear | _ConvNd
"""The layers with weights that are observed: those of `Layer`, and transposed convolutions, which inits leave alone."""


def is_norm(module: nn.Module) -> bool:
    """Return whether the class name ends in Norm, Norm2d or the like, as torch's and this package's norms do."""
    return re.search(r"Norm(\dd)?$", type(module).__name__) is not None


ParameterKind: TypeAlias = Literal["weight", "bias", "norm", "head"]


def parameter_kinds(model: nn.Module) -> dict[int, ParameterKind]:
    """Return the kind of each parameter by its `id`: `head`, of the last linear layer; `norm`, of a norm, or a single factor [1]
    in the place of one; `bias`, another of that name; `weight`, all the rest."""
    modules = list(model.modules())
    head = next((module for module in reversed(modules) if isinstance(module, nn.Linear)), None)
    kinds: dict[int, ParameterKind] = {}
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            plain: ParameterKind = "bias" if name == "bias" else "norm" if parameter.shape == (1,) else "weight"
            kinds.setdefault(id(parameter), "head" if module is head else "norm" if is_norm(module) else plain)
    return kinds


RESIDUAL_BLOCKS = ("ResidualBlock", "BasicBlock", "Bottleneck")
"""What the classes of blocks are called whose branch ends with a norm: ours, and those of torchvision's ResNets."""


def last_norms(model: nn.Module) -> list[nn.Module]:
    """Return the last norm of each of the `RESIDUAL_BLOCKS`, of those modules that the block holds itself."""
    blocks = (module for module in model.modules() if type(module).__name__ in RESIDUAL_BLOCKS)
    norms = ([child for child in block.children() if is_norm(child)] for block in blocks)
    return [found[-1] for found in norms if found]


def is_activation(module: nn.Module) -> bool:
    """Return whether the module is one of torch's activation functions (nn.ReLU, nn.Tanh, ...)."""
    return type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)
