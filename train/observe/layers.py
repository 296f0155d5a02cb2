"""The layers that can be observed, by name and in order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from train.errors import UsageError
from train.observe.contracts import LayerInfo, LayerKind
from train.parts.activation import ActivationName, activation
from train.parts.kinds import WeightedLayer, is_activation
from train.parts.model.trace import Call
from train.tags import layer_of, module_of

FUNCTIONS = {activation(name): name for name in get_args(ActivationName) if name != "identity"}


@dataclass(frozen=True)
class LayerCall:
    """Call number `call` (from 0) of `module` in a forward pass. `channel_dim`: the channel dimension of its output."""

    info: LayerInfo
    module: str
    call: int
    channel_dim: int


def observed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every convolution, linear layer and activation function by name, in the order of definition."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WeightedLayer) or is_activation(module)}


def find_layer_calls(calls: Sequence[Call]) -> list[LayerCall]:
    """Return the calls of observed layers among the `calls` of a forward pass, in order of execution."""
    layer_calls: list[LayerCall] = []
    after_linear = False
    for call in calls:
        module = call.module
        if isinstance(module, WeightedLayer):
            after_linear = isinstance(module, nn.Linear)
        elif not is_activation(module):
            continue
        info = LayerInfo(layer_of(call.name, call.number), kind_of(module), function_of(module))
        layer_calls.append(LayerCall(info, call.name, call.number, channel_dim(call.output, after_linear)))
    return layer_calls


def channel_dim(output: Tensor, after_linear: bool) -> int:
    """Return the channel dimension of `output`.

    Convolutions put the channels second, linear layers last ([N, tokens, C], [N, H, W, C]); activations keep them there.
    """
    return output.ndim - 1 if after_linear or output.ndim < 2 else 1


def kind_of(module: nn.Module) -> LayerKind:
    return "conv" if isinstance(module, _ConvNd) else "linear" if isinstance(module, nn.Linear) else "activation"


def function_of(module: nn.Module) -> str:
    return FUNCTIONS.get(type(module), type(module).__name__.lower()) if is_activation(module) else ""


def select_names(names: Sequence[str], patterns: str | Sequence[str]) -> list[str]:
    """Return the names that a pattern matches, in their order. UsageError when a pattern matches none.

    Patterns are shell patterns: `*` any characters, `?` one character, `[12]` one of these; the whole name must match. A
    pattern that matches `name` also matches `name#2`.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UsageError(
                f"observe.layers={pattern}: no layer matches. Layers: {', '.join(names)}. "
                "Use * for any characters, as in observe.layers=stage1.*"
            )
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(module_of(name), pattern)
