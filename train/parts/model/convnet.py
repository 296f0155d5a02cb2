"""A small plain stack of convolutions."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval
from torch import nn

from train.errors import ShapeError
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import chain, conv_unit, pooled_head


def convnet(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    stages: Annotated[int, Interval(ge=1)] = 3,
    convs: Annotated[int, Interval(ge=1)] = 2,
    width: Annotated[int, Interval(ge=1)] = 24,
) -> nn.Module:
    """Return a net of `stages` stages of `convs` 3x3 convolutions, each with norm and activation; then pooling, dropout and head.

    Stage s has `width` * 2^(s-1) channels; each stage after the first starts with a convolution of stride 2, which halves the
    image. Names: `stage1.conv1`, `stage1.norm1`, `stage1.act1`, ..., `head`.
    ShapeError: more stages than the image has halves.
    """
    channels, height, width_px = input_shape
    most = min(height, width_px).bit_length()
    if stages > most:
        raise ShapeError(
            f"model.stages={stages} is too deep for images of {height}x{width_px} pixels: each stage after the first halves "
            f"them, which works {most - 1} times. Use model.stages={most} or less, or larger images."
        )
    body: dict[str, nn.Module] = {}
    for stage in range(1, stages + 1):
        outputs = width * 2 ** (stage - 1)
        body[f"stage{stage}"] = _stage(channels, outputs, convs, norm, activation, stride=1 if stage == 1 else 2)
        channels = outputs
    return chain(body | pooled_head(channels, classes, dropout))


def _stage(
    inputs: int, outputs: int, convs: int, norm: NormFactory | None, activation: ActivationFactory, stride: int
) -> nn.Module:
    units = conv_unit(inputs, outputs, norm, activation, 1, stride)
    for number in range(2, convs + 1):
        units |= conv_unit(outputs, outputs, norm, activation, number)
    return chain(units)
