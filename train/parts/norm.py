"""Normalisation: each choice returns `norm(channels) -> nn.Module`; `none` returns None.

With gamma_c and beta_c learned per channel, starting at 1 and 0, every module computes

    y = gamma_c * (x - mean) / sqrt(var + eps) + beta_c,    var = mean((x - mean)^2)

and they differ in the values that `mean` and `var` are taken over (the figure of Wu & He 2018):

    module         [N, C]             [N, C, H, W]                  separate statistics per
    BatchNorm      N                  N, H, W                       channel
    LayerNorm      C                  C, H, W                       image
    InstanceNorm   (nothing left)     H, W                          image and channel
    GroupNorm      C / groups         C / groups, H, W              image and group of neighbouring channels

Shapes: N images of a batch, C channels, H height, W width; [N, C, L] works like [N, C, H, W]. A shape that leaves
a mean nothing to average, or channels that the groups do not divide, raise `ShapeError` in `forward`, so that a
model can be built and its layer named before the error is shown.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from train.errors import ShapeError
from train.parts.contracts import NormFactory

Eps = Annotated[float, Interval(gt=0)]


def none() -> None:
    """No normalisation."""


def batch(momentum: Annotated[float, Interval(gt=0, le=1)] = 0.1, eps: Eps = 1e-5) -> NormFactory:
    """Batch norm: statistics of the batch in training, running averages in evaluation (Ioffe & Szegedy 2015).

    `momentum` is torch's: running = (1 - momentum) * running + momentum * batch. The lecture writes
    running = alpha * running + (1 - alpha) * batch, so momentum = 1 - alpha. The running variance collects the unbiased
    estimate (divided by n - 1), while training normalises with the biased one (divided by n).
    """
    return lambda channels: BatchNorm(channels, eps=eps, momentum=momentum)


def layer(eps: Eps = 1e-5) -> NormFactory:
    """Layer norm: statistics of each image over all its channels and positions (Ba, Kiros & Hinton 2016)."""
    return lambda channels: LayerNorm(channels, eps)


def instance(eps: Eps = 1e-5) -> NormFactory:
    """Instance norm: statistics of each channel of each image over its positions (Ulyanov et al. 2016)."""
    return lambda channels: InstanceNorm(channels, eps)


def group(groups: Annotated[int, Interval(ge=1)] = 8, eps: Eps = 1e-5) -> NormFactory:
    """Group norm: statistics of each image over `groups` groups of neighbouring channels (Wu & He 2018)."""
    return lambda channels: GroupNorm(channels, groups, eps)


class BatchNorm(_BatchNorm):
    """torch's batch norm for inputs of any rank from [N, C] on; state: `running_mean`, `running_var`, both [C].

    ShapeError: in training, a batch that holds one value per channel.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training and input.numel() == self.num_features:
            raise ShapeError(
                f"norm=batch gets inputs of {_seen(input)} in training: one value per channel, so there is no variance. "
                "Use a larger trainer.batch_size or larger images, or norm=layer."
            )


class _PerImageNorm(nn.Module):
    """Statistics of each image over `groups` groups of neighbouring channels, the same in training and evaluation."""

    choice: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.channels, self.groups, self.eps = channels, groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.channels % self.groups:
            raise ShapeError(_indivisible(self.channels, self.groups))
        if math.prod(x.shape[1:]) == self.groups:
            raise ShapeError(
                f"norm={self.choice} gets inputs of {_seen(x)}: each mean is of one value: the output is constant. {self.remedy}"
            )
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


class LayerNorm(_PerImageNorm):
    """Over C, or over C, H and W: group norm with a single group. gamma and beta stay one per channel.

    ShapeError: an input of one channel and one position.
    """

    choice = "layer"
    remedy = "Use a wider model, larger images or norm=none."

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, 1, eps)


class InstanceNorm(_PerImageNorm):
    """Over H and W: group norm with one group per channel.

    ShapeError: [N, C] or 1x1 maps, which leave one value per mean.
    """

    choice = "instance"
    remedy = "Use norm=layer or norm=batch, or a convolutional model on images large enough that its maps stay above 1x1."

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps)

    def normalize(self, x: Tensor) -> Tensor:
        # The same values as group_norm, whose CPU kernel is several times slower at one channel per group in channels_last.
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class GroupNorm(_PerImageNorm):
    """Over H, W and the channels of one group.

    ShapeError: channels that `groups` does not divide; a group of one channel and one position.
    """

    choice = "group"
    remedy = "Lower norm.groups, or use larger images."

    def __init__(self, channels: int, groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__(channels, groups, eps)

    def normalize(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype.itemsize < 4:
            # torch's CPU kernel for 16 bits in channels_last takes twice as long as float32 and two conversions.
            return super().normalize(x.float()).to(x.dtype)
        return super().normalize(x)

    def extra_repr(self) -> str:
        return f"{self.channels}, groups={self.groups}, eps={self.eps}"


def _seen(x: Tensor) -> str:
    return f"[{', '.join(str(int(size)) for size in x.shape)}]"


def _indivisible(channels: int, groups: int) -> str:
    """Names the divisors of `channels` on either side of `groups`."""
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    below = [d for d in divisors if d < groups][-1:]
    above = [d for d in divisors if d > groups][:1]
    near = " or ".join(f"norm.groups={d}" for d in below + above)
    return f"norm.groups={groups} does not divide {channels} channels. Use {near}, or another width of the model."
