"""The residual net for CIFAR of He, Zhang, Ren & Sun 2015, "Deep residual learning", section 4.2.

A stem of `width` channels, then three stages of `width`, 2 `width` and 4 `width` channels, where the second and the third start
with stride 2; global average pooling and a linear head. The shortcuts have no parameters (option A of the paper), so that the
`plain` net of the same depth and width differs in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from train.errors import UsageError
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import StochasticDepth, chain, conv3x3, conv_unit, pooled_head

Width = Annotated[int, Interval(ge=1)]
STAGES = 3


def resnet(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    stochastic_depth: float = 0.0,
    depth: int = 20,
    width: Width = 16,
) -> nn.Module:
    """Return three stages of n residual blocks of two convolutions: `depth` = 6n + 2 layers with the stem and the head.

    Block number l of L is dropped with probability l / L * `stochastic_depth`.
    Names: `stem.conv`, `stage2.block1.conv1`, `stage2.block1.norm1`, ..., `head`. With `norm=none` nothing stands in for
    the norm: the variance then grows from block to block, which is for the ablation to show.
    UsageError: a `depth` that is not 6n + 2 with n >= 1.
    """

    def block(inputs: int, outputs: int, stride: int, drop: float) -> nn.Module:
        return ResidualBlock(inputs, outputs, norm, activation, stride, drop)

    stem = {"stem": chain(conv_unit(input_shape[0], width, norm, activation))}
    stages, channels = residual_stages(depth, width, stochastic_depth, block)
    return chain(stem | stages | pooled_head(channels, classes, dropout))


def residual_stages(
    depth: int, width: int, stochastic_depth: float, block: Callable[[int, int, int, float], nn.Module]
) -> tuple[dict[str, nn.Module], int]:
    """Return the stages of `resnet` by name, and the channels of the last. `block`: gets inputs, outputs, stride and the
    probability that it is dropped."""
    stages: dict[str, nn.Module] = {}
    channels, each = width, _blocks_per_stage(depth)
    for stage in range(1, STAGES + 1):
        blocks: dict[str, nn.Module] = {}
        for number in range(1, each + 1):
            outputs = width * 2 ** (stage - 1)
            drop = stochastic_depth * ((stage - 1) * each + number) / (STAGES * each)
            blocks[f"block{number}"] = block(channels, outputs, stride_of(stage, number), drop)
            channels = outputs
        stages[f"stage{stage}"] = chain(blocks)
    return stages, channels


class ResidualBlock(nn.Module):
    """A residual block: y = act(x' + norm(conv(act(norm(conv(x)))))), with x' = x, brought to y's shape where it differs.

    `drop`: the probability that an image skips the branch in training.

    x [N, inputs, H, W] -> y [N, outputs, H / stride, W / stride].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: NormFactory | None,
        activation: ActivationFactory,
        stride: int = 1,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, norm, stride)
        self.norm1 = nn.Identity() if norm is None else norm(outputs)
        self.act1 = activation()
        self.conv2 = conv3x3(outputs, outputs, norm)
        self.norm2 = nn.Identity() if norm is None else norm(outputs)
        self.drop = StochasticDepth(drop) if drop > 0 else None
        self.act2 = activation()
        self.shortcut = nn.Identity() if stride == 1 else StridedShortcut(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act2(self.shortcut(x) + (y if self.drop is None else self.drop(y)))


class StridedShortcut(nn.Module):
    """A shortcut without parameters (option A): every `stride`-th pixel, and `extra` channels of zeros behind the others."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def stride_of(stage: int, number: int) -> int:
    """Return the stride of a stage's convolution or block number `number`: 2 at the start of every stage but the first."""
    return 2 if stage > 1 and number == 1 else 1


def _blocks_per_stage(depth: int) -> int:
    blocks, rest = divmod(depth - 2, 2 * STAGES)
    if blocks < 1:
        raise UsageError(f"model.depth={depth}: this ResNet has 6n + 2 layers, n at least 1. Use model.depth=8.")
    if rest:
        below = 2 * STAGES * blocks + 2
        raise UsageError(f"model.depth={depth}: this ResNet has 6n + 2 layers. Use model.depth={below} or {below + 2 * STAGES}.")
    return blocks
