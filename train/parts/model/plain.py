"""The plain net for CIFAR of He, Zhang, Ren & Sun 2015, "Deep residual learning", section 4.2: `resnet` without shortcuts."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval
from torch import nn

from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import chain, conv_unit, pooled_head
from train.parts.model.resnet import STAGES, Width, stride_of


def plain(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    depth: Annotated[int, Interval(ge=2)] = 20,
    width: Width = 16,
) -> nn.Module:
    """Return a stack of `depth` - 1 convolutions, each with norm and activation, and the head.

    What the stem leaves is shared evenly among the stages, the earlier ones first; `depth` below 5 leaves out the later stages.
    Names: `stem.conv`, `stage1.conv1`, `stage1.norm1`, `stage1.act1`, ..., `head`.
    """
    body: dict[str, nn.Module] = {"stem": chain(conv_unit(input_shape[0], width, norm, activation))}
    channels = width
    each, rest = divmod(depth - 2, STAGES)
    for stage in range(1, STAGES + 1):
        units: dict[str, nn.Module] = {}
        for number in range(1, each + (stage <= rest) + 1):
            outputs = width * 2 ** (stage - 1)
            units |= conv_unit(channels, outputs, norm, activation, number, stride=stride_of(stage, number))
            channels = outputs
        if units:
            body[f"stage{stage}"] = chain(units)
    return chain(body | pooled_head(channels, classes, dropout))
