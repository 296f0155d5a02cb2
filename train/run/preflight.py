"""One forward pass on shapes alone, before any data is loaded: what cannot work is found here, with its layer's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from train.errors import ShapeError, UsageError
from train.run.build import Parts
from train.run.device import Placement

TRIAL_BATCH = 2
"""Images in the trial batch: batch norm over one value cannot train, and a run's batches hold more than one image."""


@dataclass(frozen=True)
class Cost:
    """What one model costs. `flops`: of the forward pass for one image, a multiply-add counted as two."""

    parameters: int
    flops: int


def check_model(parts: Parts, batch_size: int, placement: Placement) -> Cost:
    """Build the model without memory, send a batch of shapes through it in training mode and count.

    UsageError when a layer cannot work on what reaches it, or the model ends in another number of classes.
    """
    with torch.device("meta"):
        model = parts.new_model()
        images = torch.empty(min(TRIAL_BATCH, batch_size), *parts.input_shape)
    model.train()
    with torch.no_grad(), named_errors(model, parts), FlopCounterMode(display=False) as counter:
        if placement.device.type == "cpu" and placement.dtype is torch.bfloat16:
            refuse_broken_gradients(model)
        logits = model(images)
    classes = len(parts.dataset.class_names)
    if tuple(logits.shape) != (len(images), classes):
        raise UsageError(
            f"model: it returns {tuple(logits.shape)} for {len(images)} images where {(len(images), classes)} is needed."
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // len(images))


def refuse_broken_gradients(model: nn.Module) -> None:
    """Make convolutions complain about maps smaller than their stride.

    There torch 2.14 on a CPU leaves uninitialised memory in the bfloat16 gradient of the weight, different at every call
    (oneDNN; seen with AVX-512 BF16; float32 is right).
    """

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        size, stride = inputs[0].shape[-2:], module.stride
        if any(s > length for s, length in zip(stride, size, strict=True)) and max(module.kernel_size) > 1:
            raise ShapeError(
                f"its stride {max(stride)} is larger than its input of {size[0]}x{size[1]}, where torch computes wrong "
                "gradients in bfloat16 on a CPU. Use trainer.precision=float32, larger images or a shallower model."
            )

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)


@contextmanager
def named_errors(model: nn.Module, parts: Parts) -> Iterator[None]:
    """Inside, an error of a layer's forward becomes a UsageError that names the layer and the shape it saw."""
    path: list[tuple[str, Any]] = []
    handles = []

    def leave(*_: Any) -> None:
        path.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: path.append((name, inputs))))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    except (RuntimeError, ValueError, IndexError, AssertionError, ShapeError) as error:
        name, inputs = path[-1] if path else ("", ())
        raise UsageError(describe_error(error, name or "the model", inputs, parts)) from error
    finally:
        for handle in handles:
            handle.remove()


def describe_error(error: Exception, name: str, inputs: Any, parts: Parts) -> str:
    shapes = ", ".join(str(tuple(value.shape[1:])) for value in inputs if isinstance(value, torch.Tensor))
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = f"layer {name}, which receives {shapes or 'nothing'} per image"
    if isinstance(error, ShapeError):
        return f"{where}: {said}"
    size = "x".join(map(str, parts.input_shape[1:]))
    remedy = f"Images reach the model as {size}: use larger images, a shallower model or another choice of norm."
    return f"{where}, cannot work: {said}. {remedy}"
