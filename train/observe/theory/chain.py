"""Converts a model to the chain of its layers, using one forward pass on the meta device."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from train.observe.layers import is_activation
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
from train.parts.contracts import Shape
from train.parts.init import fans
from train.parts.model.layers import GlobalAveragePool
from train.parts.norm import GroupNorm, InstanceNorm, LayerNorm


def chain_of(model: nn.Module, shape: Shape) -> Chain:
    """Return the layers of `model` for images of `shape`, in order of execution. The model stays unchanged.

    Weight variances are the second moments of the actual weights, which covers every init, including a user's own and
    data-dependent ones. Therefore call it at initialisation, with weights that are not on the meta device. Layers of a kind that
    is not in `stages` become `Uncovered`, and so does every point where a layer's input is not the output of the previous layer
    (a residual sum, a function call, a branch). The chain continues behind it.
    """
    calls, output = _run(model, shape)
    counts = Counter(call.name for call in calls)
    stages: list[Stage] = []
    for previous, call in zip([None, *calls], calls, strict=False):
        if previous is not None:
            stages += _between(previous, call)
        repeated = counts[call.name] > 1
        stages.append(Uncovered(call.name, f"{call.name} is called more than once") if repeated else _stage(call))
    if calls and _root(output) is not _root(calls[-1].output):
        stages.append(Uncovered("", f"the output of the model is not the output of {calls[-1].name}"))
    return stages


@dataclass(frozen=True)
class _Call:
    """One call of a module without submodules. Versions are torch's counts of in-place changes.

    `input_shape`, `input_version`: of the input when the call began. `output_version`: of the output when it returned.
    """

    name: str
    module: nn.Module
    input: Tensor
    input_shape: tuple[int, ...]
    input_version: int
    output: Tensor
    output_version: int

    @property
    def size(self) -> Size:
        return (self.input_shape[2], self.input_shape[3]) if len(self.input_shape) == 4 else (1, 1)


@dataclass
class _Recorder:
    calls: list[_Call] = field(default_factory=list)
    input_version: int = 0

    def before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.input_version = _root(inputs[0])._version if inputs and isinstance(inputs[0], Tensor) else 0

    def after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                input_shape = tuple(inputs[0].shape)
                self.calls.append(_Call(name, module, inputs[0], input_shape, self.input_version, output, _root(output)._version))

        return hook


def _run(model: nn.Module, shape: Shape) -> tuple[list[_Call], Tensor]:
    """Return the calls in order and the output of the model. Evaluation mode draws no random numbers."""
    weights = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    recorder = _Recorder()
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        for name, module in model.named_modules():
            if next(module.children(), None) is None and not isinstance(module, nn.Identity):
                stack.callback(module.register_forward_pre_hook(recorder.before).remove)
                stack.callback(module.register_forward_hook(recorder.after(name)).remove)
        with torch.no_grad():
            output = torch.func.functional_call(model, weights, (torch.zeros(2, *shape, device="meta"),))
    return recorder.calls, output


def _root(x: Tensor) -> Tensor:
    """Return the tensor that `x` is a view of, or `x` itself."""
    return x if x._base is None else x._base


def _between(previous: _Call, call: _Call) -> list[Stage]:
    """Return the stages between two calls, usually none."""
    output_shape = tuple(previous.output.shape)
    if _root(call.input) is not _root(previous.output) or call.input_version != previous.output_version:
        return [Uncovered("", f"{call.name} does not get the output of {previous.name}, but a sum, a branch or a function of it")]
    if call.input_shape == output_shape:
        return []
    if len(output_shape) == 4 and call.input_shape == (output_shape[0], output_shape[1] * output_shape[2] * output_shape[3]):
        return [Flatten(call.name, (output_shape[2], output_shape[3]))]
    return [Uncovered("", f"{call.name} gets the output of {previous.name} in another shape")]


def _stage(call: _Call) -> Stage:
    name, module = call.name, call.module
    pools = isinstance(module, GlobalAveragePool | nn.AdaptiveAvgPool2d) and call.output.shape[2:].numel() == 1
    if isinstance(module, nn.Linear | _ConvNd):
        return _weighted(call, module)
    if isinstance(module, _BatchNorm | LayerNorm | InstanceNorm | GroupNorm | nn.LayerNorm | nn.GroupNorm):
        return _norm(call, module)
    if is_activation(module):
        return _activation(name, module)
    if isinstance(module, nn.Dropout):
        return Dropout(name, module.p)
    if isinstance(module, nn.Flatten) and call.output.ndim == 2:
        return Flatten(name, call.size)
    if pools and len(call.input_shape) == 4:
        return GlobalPool(name, call.size)
    return Uncovered(name, f"theory does not cover {type(module).__name__} ({name})")


def _weighted(call: _Call, module: nn.Linear | _ConvNd) -> Stage:
    if not isinstance(module, nn.Linear | nn.Conv2d) or len(call.input_shape) != (2 if isinstance(module, nn.Linear) else 4):
        return Uncovered(call.name, f"{call.name} gets {len(call.input_shape)} dimensions; theory covers [N, C] and [N, C, H, W]")
    weight = module.weight.detach().cpu().double()
    second, mean = weight.square().mean().item(), weight.mean().item()
    # Five standard errors of the mean of this many independent weights.
    if mean**2 * weight.numel() > 25 * second:
        return Uncovered(call.name, f"the weights of {call.name} have mean {mean:.3g}; theory assumes 0")
    bias = 0.0 if module.bias is None else module.bias.detach().cpu().double().square().mean().item()
    return Weighted(call.name, *fans(module), second, bias, _window(module), call.size)


def _window(module: nn.Linear | nn.Conv2d) -> Window:
    if isinstance(module, nn.Linear):
        return Window()
    kernel, stride, dilation = (tuple(map(int, v)) for v in (module.kernel_size, module.stride, module.dilation))
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = module._reversed_padding_repeated_twice  # resolved from numbers, "same" and "valid" alike
    return Window((kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1]), padding, mode)


def _norm(call: _Call, module: nn.Module) -> Stage:
    initial = ((getattr(module, "weight", None), 1), (getattr(module, "bias", None), 0))
    identity = all(p is None or bool((p.detach() == value).all()) for p, value in initial)
    if not identity or len(call.input_shape) not in (2, 4):
        return Uncovered(
            call.name,
            f"{call.name} has a scale other than 1, a shift other than 0 or an input that is not [N, C] or [N, C, H, W]",
        )
    eps, size = float(module.eps), call.size  # pyright: ignore[reportArgumentType]
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
