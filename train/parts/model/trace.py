"""Trace one forward pass of a model to learn which layer feeds which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from train.parts.contracts import Shape

Layer: TypeAlias = nn.Conv2d | nn.Linear
Norm: TypeAlias = _BatchNorm | nn.LayerNorm | nn.GroupNorm


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    `before_norm`: names of the layers whose output, as it is or permuted, a norm reads. `functional_relu`: some ReLU is a
    function call instead of a module.
    """

    before_norm: frozenset[str]
    functional_relu: bool


def trace(model: nn.Module, shape: Shape) -> Trace:
    """Run `model` once on the meta device, which computes shapes and no numbers; the model stays unchanged.

    In evaluation mode, so that no random choice decides what is seen, and dropout passes its input on as it is.
    """
    weights = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    images = torch.zeros(2, *shape, device="meta")
    readers, relus = _Readers(), _ReluCalls()
    with ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()
        for name, module in model.named_modules():
            if isinstance(module, Layer):
                stack.callback(module.register_forward_hook(readers.after_layer(name)).remove)
            elif isinstance(module, Norm):
                stack.callback(module.register_forward_pre_hook(readers.before_norm).remove)
            elif isinstance(module, nn.ReLU):
                stack.callback(module.register_forward_hook(relus.after_module).remove)
        with torch.no_grad(), relus:
            torch.func.functional_call(model, weights, (images,))
    return Trace(frozenset(readers.found), functional_relu=relus.outside_modules > 0)


class _Readers:
    """The layers that norms read: a norm reads a layer if it is given the tensor that the layer returned, or a view of it."""

    def __init__(self) -> None:
        self.returned: dict[int, tuple[str, Tensor, int]] = {}  # by id; holding the tensor keeps its id from being used again
        self.found: set[str] = set()

    def after_layer(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            root = _root(output)
            self.returned[id(root)] = (name, root, root._version)

        return note

    def before_norm(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name, root, version = self.returned.get(id(_root(inputs[0])), ("", inputs[0], -1))
        changed_in_place = root._version != version
        if not changed_in_place and root.numel() == inputs[0].numel():
            self.found.add(name)


def _root(x: Tensor) -> Tensor:
    """Return the tensor that `x` is a view of, or `x`; a linear layer on more than two dimensions returns a view."""
    return x if x._base is None else x._base


class _ReluCalls(TorchFunctionMode):
    """A count of the calls of F.relu that no nn.ReLU makes."""

    def __init__(self) -> None:
        super().__init__()
        self.outside_modules = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.outside_modules += func is F.relu
        return func(*args, **(kwargs or {}))

    def after_module(self, *_: Any) -> None:
        self.outside_modules -= 1
