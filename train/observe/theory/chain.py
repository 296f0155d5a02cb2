"""Converts the recorded forward pass of a model to the chain of its layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.observe.theory.gaussian import Function
from train.observe.theory.stages import (
    Activation,
    Chain,
    Dropout,
    Flatten,
    GlobalPool,
    Norm,
    Size,
    Stage,
    Uncovered,
    Weighted,
    Window,
)
from train.parts.init import fans
from train.parts.kinds import WeightedLayer, is_activation
from train.parts.model.layers import GlobalAveragePool
from train.parts.model.trace import Call, base
from train.parts.norm import GroupNorm, InstanceNorm, LayerNorm, StandardizedConv2d


def chain_of(calls: Sequence[Call]) -> Chain:
    """Return the layers of a model, from the calls that `trace` returned, in order of execution.

    Weight variances are the second moments of the actual weights, which covers every init, including a user's own and
    data-dependent ones. Therefore call it at initialisation, with weights that are not on the meta device. Layers of a kind that
    is not in `stages` become `Uncovered`, and so does every point where a layer's input is not the output of the previous layer
    (a residual sum, a function call, a branch). The chain continues behind it.
    """
    output = calls[-1].output
    calls = [call for call in calls if _is_link(call)]
    counts = Counter(call.name for call in calls)
    stages: list[Stage] = []
    for previous, call in zip([None, *calls], calls, strict=False):
        if previous is not None:
            stages += _between(previous, call)
        repeated = counts[call.name] > 1
        stages.append(Uncovered(call.name, f"{call.name} is called more than once") if repeated else _stage(call))
    if calls and base(output) is not base(calls[-1].output):
        stages.append(Uncovered("", f"the output of the model is not the output of {calls[-1].name}"))
    return stages


def _is_link(call: Call) -> bool:
    """Return whether the call turns one tensor into another and is not made of other modules' calls."""
    leaf = next(call.module.children(), None) is None and not isinstance(call.module, nn.Identity)
    return leaf and isinstance(call.input, Tensor) and isinstance(call.output, Tensor)


def _size(call: Call) -> Size:
    """Return height and width of the input."""
    return (call.input_shape[2], call.input_shape[3]) if len(call.input_shape) == 4 else (1, 1)


def _between(previous: Call, call: Call) -> list[Stage]:
    """Return the stages between two calls, usually none."""
    output_shape = tuple(previous.output.shape)
    if base(call.input) is not base(previous.output) or call.input_version != previous.output_version:
        return [Uncovered("", f"{call.name} does not get the output of {previous.name}, but a sum, a branch or a function of it")]
    if call.input_shape == output_shape:
        return []
    if len(output_shape) == 4 and call.input_shape == (output_shape[0], output_shape[1] * output_shape[2] * output_shape[3]):
        return [Flatten(call.name, (output_shape[2], output_shape[3]))]
    return [Uncovered("", f"{call.name} gets the output of {previous.name} in another shape")]


def _stage(call: Call) -> Stage:
    name, module = call.name, call.module
    pools = isinstance(module, GlobalAveragePool | nn.AdaptiveAvgPool2d) and call.output.shape[2:].numel() == 1
    if isinstance(module, WeightedLayer):
        return _weighted(call, module)
    if isinstance(module, _BatchNorm | LayerNorm | InstanceNorm | GroupNorm | nn.LayerNorm | nn.GroupNorm):
        return _norm(call, module)
    if is_activation(module):
        return _activation(name, module)
    if isinstance(module, nn.Dropout):
        return Dropout(name, module.p)
    if isinstance(module, nn.Flatten) and call.output.ndim == 2:
        return Flatten(name, _size(call))
    if pools and len(call.input_shape) == 4:
        return GlobalPool(name, _size(call))
    return Uncovered(name, f"theory does not cover {type(module).__name__} ({name})")


def _weighted(call: Call, module: WeightedLayer) -> Stage:
    if not isinstance(module, nn.Linear | nn.Conv2d) or len(call.input_shape) != (2 if isinstance(module, nn.Linear) else 4):
        return Uncovered(call.name, f"{call.name} gets {len(call.input_shape)} dimensions; theory covers [N, C] and [N, C, H, W]")
    if isinstance(module, StandardizedConv2d):
        return Uncovered(call.name, f"{call.name} standardises its weights")
    weight = module.weight.detach().cpu().double()
    second, mean = weight.square().mean().item(), weight.mean().item()
    # Five standard errors of the mean of this many independent weights.
    if mean**2 * weight.numel() > 25 * second:
        return Uncovered(call.name, f"the weights of {call.name} have mean {mean:.3g}; theory assumes 0")
    bias = 0.0 if module.bias is None else module.bias.detach().cpu().double().square().mean().item()
    return Weighted(call.name, *fans(module), second, bias, _window(module), _size(call))


def _window(module: nn.Linear | nn.Conv2d) -> Window:
    if isinstance(module, nn.Linear):
        return Window()
    kernel, stride, dilation = (tuple(map(int, v)) for v in (module.kernel_size, module.stride, module.dilation))
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = module._reversed_padding_repeated_twice  # resolved from numbers, "same" and "valid" alike
    return Window((kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1]), padding, mode)


def _norm(call: Call, module: nn.Module) -> Stage:
    initial = ((getattr(module, "weight", None), 1), (getattr(module, "bias", None), 0))
    identity = all(p is None or bool((p.detach() == value).all()) for p, value in initial)
    if not identity or len(call.input_shape) not in (2, 4):
        return Uncovered(
            call.name,
            f"{call.name} has a scale other than 1, a shift other than 0 or an input that is not [N, C] or [N, C, H, W]",
        )
    eps, size = float(module.eps), _size(call)  # pyright: ignore[reportArgumentType]
    if isinstance(module, _BatchNorm):
        return Norm(call.name, True, 1, eps, size)
    if isinstance(module, nn.LayerNorm):
        last = len(call.input_shape) == 2 and len(module.normalized_shape) == 1
        return (
            Norm(call.name, False, call.input_shape[1], eps)
            if last
            else Uncovered(call.name, f"{call.name} does not normalise over channels")
        )
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else module.groups
    return Norm(call.name, False, call.input_shape[1] // int(groups), eps, size)  # pyright: ignore[reportArgumentType]


def _activation(name: str, module: nn.Module) -> Stage:
    function = _in_float64(module)
    points = torch.linspace(-2, 2, 6, dtype=torch.float64)
    try:
        with torch.no_grad():
            separate = torch.cat([function(point.reshape(1, 1)).reshape(-1) for point in points])
            elementwise = torch.equal(function(points.reshape(1, -1)).reshape(-1), separate)
    except (RuntimeError, ValueError):
        elementwise = False
    return Activation(name, function) if elementwise else Uncovered(name, f"{name} is not elementwise")


def _in_float64(module: nn.Module) -> Function:
    """Return a float64 copy in evaluation mode that does not change its input in place."""
    function = copy.deepcopy(module).cpu().double().eval()
    if hasattr(function, "inplace"):
        function.inplace = False  # pyright: ignore[reportArgumentType]
    return function
