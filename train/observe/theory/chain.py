"""From a model to the chain of its layers, read off one forward on the meta device."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.observe.observer import is_activation
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

PER_IMAGE = (LayerNorm, InstanceNorm, GroupNorm)
TRANSPARENT = (nn.Identity,)


def chain_of(model: nn.Module, shape: Shape) -> Chain:
    """The layers of `model` for images of `shape`, in the order in which they run. The model is as before afterwards.

    Weight variances are the second moments of the weights that are there, so that every init is covered, a user's own
    included, and one that looks at data; nothing is asked about where they came from. Read at initialisation.
    What is not a layer of a kind in `stages` becomes `Uncovered`, and so does every point where a layer's input is not what the
    layer before it returned (a residual sum, a function call, a branch): the chain goes on behind it.
    """
    calls, output = _run(model, shape)
    times = Counter(call.name for call in calls)
    stages: list[Stage] = []
    previous: _Call | None = None
    for call in calls:
        stages += _joint(previous, call)
        stages.append(_repeated(call) if times[call.name] > 1 else _stage(call))
        previous = call
    if previous is not None and not previous.handed_on(output):
        stages.append(Uncovered("the output", f"it is not what {previous.name} returned"))
    return stages


@dataclass(frozen=True)
class _Call:
    """One call of a module without submodules. `version` is that of the output when the module returned it."""

    name: str
    module: nn.Module
    input: Tensor
    received: tuple[int, ...]
    output: Tensor
    version: int

    @property
    def size(self) -> Size:
        return (self.received[2], self.received[3]) if len(self.received) == 4 else (1, 1)

    def handed_on(self, x: Tensor) -> bool:
        """Whether `x` is this call's output or a view of all of it, unchanged since."""
        root = _root(self.output)
        return _root(x) is root and root._version == self.version and x.numel() == root.numel()


def _run(model: nn.Module, shape: Shape) -> tuple[list[_Call], Tensor]:
    """In evaluation mode, which draws nothing."""
    weights = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    images = torch.zeros(2, *shape, device="meta")
    calls: list[_Call] = []
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        for name, module in model.named_modules():
            if next(module.children(), None) is None and not isinstance(module, TRANSPARENT):
                stack.callback(module.register_forward_hook(partial(_note, calls, name)).remove)
        with torch.no_grad():
            output = torch.func.functional_call(model, weights, (images,))
    return calls, output


def _note(calls: list[_Call], name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
        calls.append(_Call(name, module, inputs[0], tuple(inputs[0].shape), output, _root(output)._version))


def _root(x: Tensor) -> Tensor:
    return x if x._base is None else x._base


def _joint(previous: _Call | None, call: _Call) -> list[Stage]:
    """What stands between two calls: usually nothing."""
    if previous is None:
        return []
    returned = tuple(previous.output.shape)
    if not _received_from(previous, call):
        return [Uncovered(call.name, f"its input is not what {previous.name} returned, but a sum, a branch or a function of it")]
    if call.received == returned:
        return []
    if len(returned) == 4 and call.received == (returned[0], returned[1] * returned[2] * returned[3]):
        return [Flatten(call.name, (returned[2], returned[3]))]
    return [Uncovered(call.name, f"the output of {previous.name} reaches it in another shape")]


def _received_from(previous: _Call, call: _Call) -> bool:
    """In-place modules return the tensor they were given, a version later."""
    root = _root(previous.output)
    return _root(call.input) is root and call.input.numel() == root.numel() and call.seen == previous.version


def _repeated(call: _Call) -> Stage:
    return Uncovered(call.name, "it runs more than once in one forward")
