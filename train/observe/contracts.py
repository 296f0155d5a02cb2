"""What observation says of a layer, for packages that do not need torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LayerKind: TypeAlias = Literal["conv", "linear", "activation"]

SATURATED = {"tanh": (0.0, 0.97), "sigmoid": (0.5, 0.47)}
"""Activation -> (centre, distance): an output further than `distance` from `centre` is saturated. There the slope is below 0.06
of its maximum for tanh (beyond 0.97) and below 0.12 of it for sigmoid (below 0.03 or above 0.97)."""


@dataclass(frozen=True)
class LayerInfo:
    """One observed output. `name`: its module's name; later calls of the same module in a forward pass are `name#2` and so on.

    `function`: the name of an activation under `model.activation`, or for torch's other activations the lower-case class name;
    "" for layers that are no activations.
    """

    name: str
    kind: LayerKind
    function: str


@dataclass(frozen=True)
class Expected:
    """The prediction for the output of layer `name`, over all images, channels and positions. None: not covered.

    `gradient_std` is relative to that of the last layer. `forward_gap` and `backward_gap` give the reason for a missing value.
    """

    name: str
    mean: float | None
    std: float | None
    gradient_std: float | None
    forward_gap: str = ""
    backward_gap: str = ""
