"""The nine-layer residual net of Page 2018, "How to train your ResNet", from which speed records on CIFAR-10 began.

A stem of `width` channels; three stages of 2 `width`, 4 `width` and 8 `width` channels, each a convolution and a maximum over 2x2
pixels, the first and the third with a residual block behind; the maximum over all positions, a linear head, and logits times a
constant, without which the softmax of so few wide layers begins too sure.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn

from train.errors import ShapeError
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import GlobalMaxPool, HalvingMaxPool, Scale, StochasticDepth, chain, conv_unit, drop

STAGES = 3
BLOCKS_AFTER = (1, 3)
"""The stages that end with a residual block."""


def resnet9(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    stochastic_depth: float = 0.0,
    width: Annotated[int, Interval(ge=1)] = 64,
    logit_scale: Annotated[float, Interval(gt=0)] = 0.125,
) -> nn.Module:
    """Return the net. Its head has a bias, which the original lacks. The second block of two is dropped with `stochastic_depth`.

    Names: `stem.conv`, `stage1.conv`, ..., `stage1.pool`, `stage1.block.branch.conv1`, ..., `head`, `scale`.
    ShapeError: images of less than 8 pixels, which cannot be halved three times.
    """
    if min(input_shape[1:]) < 2**STAGES:
        size = f"{input_shape[1]}x{input_shape[2]}"
        raise ShapeError(f"model=resnet9 halves images three times and needs 8x8 pixels at least, not {size}. Use model=resnet.")
    body: dict[str, nn.Module] = {"stem": chain(conv_unit(input_shape[0], width, norm, activation))}
    for stage in range(1, STAGES + 1):
        outputs = width * 2**stage
        units = conv_unit(outputs // 2, outputs, norm, activation) | {"pool": HalvingMaxPool()}
        if stage in BLOCKS_AFTER:
            share = (BLOCKS_AFTER.index(stage) + 1) / len(BLOCKS_AFTER)
            units["block"] = ActivatedBlock(outputs, norm, activation, stochastic_depth * share)
        body[f"stage{stage}"] = chain(units)
    head = {"pool": GlobalMaxPool(), **drop(dropout), "head": nn.Linear(width * 2**STAGES, classes), "scale": Scale(logit_scale)}
    return chain(body | head)


class ActivatedBlock(nn.Module):
    """A residual block whose branch ends with an activation: y = x + act(norm(conv(act(norm(conv(x))))))."""

    def __init__(self, channels: int, norm: NormFactory | None, activation: ActivationFactory, drop: float = 0.0) -> None:
        super().__init__()
        self.branch = chain(
            conv_unit(channels, channels, norm, activation, 1) | conv_unit(channels, channels, norm, activation, 2)
        )
        self.drop = StochasticDepth(drop) if drop > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + (y if self.drop is None else self.drop(y))
