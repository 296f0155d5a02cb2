"""Pre-flight check: a forward pass on meta tensors, before any data is loaded, that names the layer of an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from train.errors import ShapeError, UsageError
from train.observe.observer import select_layers
from train.parts.model.trace import recording, trace
from train.run.build import Parts
from train.run.device import Placement

CHECK_BATCH = 2
"""Images in the batch of the check: batch norm cannot train on one value, and the batches of a run hold more than one image."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model. `flops`: of the forward pass for one image; a multiply-add counts as two."""

    parameters: int
    flops: int


def check_model(parts: Parts, batch_size: int, placement: Placement, layers: str | Sequence[str] = "*") -> Cost:
    """Build the model on the meta device, run a forward pass in training mode and count parameters and FLOPs.

    UsageError when the init does not fit the model, a layer rejects its input, the number of logits is not the number of classes,
    or `layers`, the patterns of `observe.layers`, match no layer.
    """
    with torch.device("meta"):
        model = parts.new_model()
        images = torch.empty(min(CHECK_BATCH, batch_size), *parts.input_shape)
    check_init = getattr(parts.init, "check", None)
    if check_init is not None:
        check_init(model)
    model.train()
    with torch.no_grad(), named_errors(model, parts), FlopCounterMode(display=False) as counter:
        if placement.device.type == "cpu" and placement.dtype is torch.bfloat16:
            refuse_broken_gradients(model)
        logits = model(images)
    classes = len(parts.dataset.class_names)
    if tuple(logits.shape) != (len(images), classes):
        raise UsageError(
            f"model: returns shape {tuple(logits.shape)} for {len(images)} images; expected {(len(images), classes)}."
        )
    if layers != "*":
        select_layers(model, trace(model, parts.input_shape), layers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // len(images))


def refuse_broken_gradients(model: nn.Module) -> None:
    """Make convolutions reject inputs smaller than their stride.

    For these, torch 2.14 on a CPU leaves uninitialised memory in the bfloat16 gradient of the weight, different at every call
    (oneDNN; observed with AVX-512 BF16; float32 is correct).
    """

    def check_stride(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        size, stride = inputs[0].shape[-2:], module.stride
        if any(s > length for s, length in zip(stride, size, strict=True)) and max(module.kernel_size) > 1:
            raise ShapeError(
                f"stride {max(stride)} is larger than the input of {size[0]}x{size[1]}; torch computes wrong "
                "bfloat16 gradients for this on a CPU. Use trainer.precision=float32, larger images or a shallower model."
            )

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(check_stride)


@contextmanager
def named_errors(model: nn.Module, parts: Parts) -> Iterator[None]:
    """Turn an error in a layer's forward into a UsageError that names the layer and its input shape."""
    with recording(model) as record:
        try:
            yield
        except (RuntimeError, ValueError, IndexError, AssertionError, ShapeError) as error:
            name, inputs = (record.running[-1].name, record.running[-1].inputs) if record.running else ("", ())
            raise UsageError(describe_error(error, name or "the model", inputs, parts)) from error


def describe_error(error: Exception, name: str, inputs: Any, parts: Parts) -> str:
    shapes = ", ".join(str(tuple(value.shape[1:])) for value in inputs if isinstance(value, torch.Tensor))
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    layer = f"layer {name}, input {shapes or 'none'} per image"
    if isinstance(error, ShapeError):
        return f"{layer}: {message}"
    size = "x".join(map(str, parts.input_shape[1:]))
    remedy = f"The model receives {size} images. Use larger images, a shallower model or another norm."
    return f"{layer}, fails: {message}. {remedy}"
