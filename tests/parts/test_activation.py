"""Activations by name, against their formulas."""

import math
from typing import get_args

import pytest
import torch

from train.parts.activation import ActivationName, activation


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "identity": lambda x: x,
}


def test_activation_names_are_all_tested():
    assert set(get_args(ActivationName)) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_is_the_formula_out_of_place(name):
    values = [-4.0, -1.5, -0.1, 0.0, 0.3, 2.0, 5.0]
    x = torch.tensor(values, dtype=torch.float64)
    y = activation(name)()(x)
    torch.testing.assert_close(y, torch.tensor([float(FORMULAS[name](v)) for v in values], dtype=torch.float64))
    assert x.tolist() == values


def test_activation_factory_returns_new_modules():
    make = activation("relu")
    assert make() is not make()
