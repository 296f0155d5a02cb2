"""The multi-layer perceptron."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Interval
from torch import nn

from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import chain, drop, norm_act


def mlp(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    depth: Annotated[int, Interval(ge=0)] = 3,
    width: Annotated[int, Interval(ge=1)] = 512,
) -> nn.Module:
    """Return a multi-layer perceptron with `depth` hidden layers of `width` units.

    Images are flattened; each hidden layer is linear, norm, activation, dropout; then the head.
    Names: `fc1`, `norm1`, `act1`, `dropout1`, `fc2`, ..., `head`. `depth` 0 is softmax regression.
    """
    modules: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    units = math.prod(input_shape)
    for number in range(1, depth + 1):
        modules[f"fc{number}"] = nn.Linear(units, width, bias=norm is None)
        modules |= norm_act(width, norm, activation, number) | drop(dropout, number)
        units = width
    return chain({**modules, "head": nn.Linear(units, classes)})
