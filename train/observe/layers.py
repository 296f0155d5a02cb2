"""The layers that can be observed, by name and in order of execution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from train.errors import UsageError
from train.observe.contracts import LayerInfo, LayerKind
from train.observe.isolation import isolated
from train.parts.activation import ActivationName, activation
from train.parts.contracts import Shape
from train.tags import layer_of, module_of

WEIGHTED = (_ConvNd, nn.Linear)
FUNCTIONS = {activation(name): name for name in get_args(ActivationName) if name != "identity"}
TRIAL_IMAGES = 2


@dataclass(frozen=True)
class LayerCall:
    """Call number `call` (from 0) of `module` in a forward pass. `channel_dim`: the channel dimension of its output."""

    info: LayerInfo
    module: str
    call: int
    channel_dim: int


def is_activation(module: nn.Module) -> bool:
    """Return whether the module is one of torch's activation functions (nn.ReLU, nn.Tanh, ...)."""
    return type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)


def observed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every convolution, linear layer and activation function by name, in the order of definition."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED) or is_activation(module)}


def find_layer_calls(model: nn.Module, input_shape: Shape) -> list[LayerCall]:
    """Return every output of an observed layer in one forward pass of `model`, in order of execution.

    Runs the model on its own device (the meta device included), on two black images in evaluation mode.
    """
    layer_calls: list[LayerCall] = []
    counts: Counter[str] = Counter()
    weighted_kind: list[LayerKind] = []

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            if isinstance(module, WEIGHTED):
                weighted_kind[:] = [kind_of(module)]
            call = counts[name]
            counts[name] += 1
            info = LayerInfo(layer_of(name, call), kind_of(module), function_of(module))
            layer_calls.append(LayerCall(info, name, call, channel_dim(output, weighted_kind[:1] == ["linear"])))

        return hook

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(isolated(model))
        for name, module in observed_layers(model).items():
            stack.callback(module.register_forward_hook(recorder(name)).remove)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        model(torch.zeros(TRIAL_IMAGES, *input_shape, device=device))
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
