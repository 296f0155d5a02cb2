"""Activation functions by name. None works in place, which would overwrite what is measured."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

from train.parts.contracts import ActivationFactory

ActivationName: TypeAlias = Literal[
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "softplus", "tanh", "sigmoid", "identity"
]

_MODULES: dict[ActivationName, ActivationFactory] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def activation(name: ActivationName) -> ActivationFactory:
    """Return a factory of torch's module for `name`, with torch's default constants (leaky_relu: slope 0.01; gelu: exact)."""
    return _MODULES[name]
