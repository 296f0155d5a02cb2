"""Normalisation: each choice returns `norm(channels) -> nn.Module`; `none` returns None.

With gamma_c and beta_c learned per channel, starting at 1 and 0, every module computes

    y = gamma_c * (x - mean) / sqrt(var + eps) + beta_c,    var = mean((x - mean)^2)

and they differ in the values that `mean` and `var` are taken over (the figure of Wu & He 2018):

    module           [N, C]             [N, C, H, W]                  separate statistics per
    BatchNorm        N                  N, H, W                       channel
    GhostBatchNorm   N / parts          N / parts, H, W               channel and part of the batch
    LayerNorm        C                  C, H, W                       image
    RMSNorm          C                  C, H, W                       image; mean is 0, var the mean square
    InstanceNorm     (nothing left)     H, W                          image and channel
    GroupNorm        C / groups         C / groups, H, W              image and group of neighbouring channels

`scale` and `shift` say whether there is a gamma and a beta. Without a beta, the layer in front has no bias either.

Shapes: N images of a batch, C channels, H height, W width; [N, C, L] works like [N, C, H, W]. A shape that leaves a mean nothing
to average, or channels that the groups do not divide, raise `ShapeError` in `forward`: a model can be built, and its layer named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from train.errors import ShapeError, UsageError
from train.parts.contracts import NormFactory
from train.world.norm import RankedBatchNorm

Count = Annotated[int, Interval(ge=1)]
Eps = Annotated[float, Interval(gt=0)]
Momentum = Annotated[float, Interval(gt=0, le=1)]


def none() -> None:
    """No normalisation."""


def batch(momentum: Momentum = 0.1, eps: Eps = 1e-5, scale: bool = True, shift: bool = True, sync: bool = True) -> NormFactory:
    """Batch norm: statistics of the batch in training, running averages in evaluation (Ioffe & Szegedy 2015).

    `momentum` is torch's: running = (1 - momentum) * running + momentum * batch. The lecture writes
    running = alpha * running + (1 - alpha) * batch, so momentum = 1 - alpha. The running variance collects the unbiased
    estimate (divided by n - 1), while training normalises with the biased one (divided by n). `sync`: see `train.world.norm`.
    """
    return lambda channels: _with_affine(BatchNorm(channels, eps=eps, momentum=momentum, sync=sync), scale, shift)


def ghost(size: Count = 32, momentum: Momentum = 0.1, eps: Eps = 1e-5, scale: bool = True, shift: bool = True) -> NormFactory:
    """Ghost batch norm: batch norm over parts of the batch, of at least `size` images each (Hoffer, Hubara & Soudry 2017).

    N images make N / size parts, rounded down, but one at least, as equal as possible. Each part updates the running averages in
    turn, as if it were a batch of its own.
    """
    return lambda channels: _with_affine(GhostBatchNorm(channels, size, eps, momentum), scale, shift)


def layer(eps: Eps = 1e-5, scale: bool = True, shift: bool = True) -> NormFactory:
    """Layer norm: statistics of each image over all its channels and positions (Ba, Kiros & Hinton 2016)."""
    return lambda channels: _with_affine(LayerNorm(channels, eps), scale, shift)


def rms(eps: Eps = 1e-5, scale: bool = True, shift: bool = False) -> NormFactory:
    """RMS norm: each image divided by the root of the mean square of its values; nothing is subtracted (Zhang & Sennrich 2019).

    The paper has no beta.
    """
    return lambda channels: _with_affine(RMSNorm(channels, eps), scale, shift)


def instance(eps: Eps = 1e-5, scale: bool = True, shift: bool = True) -> NormFactory:
    """Instance norm: statistics of each channel of each image over its positions (Ulyanov et al. 2016)."""
    return lambda channels: _with_affine(InstanceNorm(channels, eps), scale, shift)


def group(
    groups: Count = 8, eps: Eps = 1e-5, scale: bool = True, shift: bool = True, standardize_weights: bool = False
) -> NormFactory:
    """Group norm: statistics of each image over `groups` groups of neighbouring channels (Wu & He 2018).

    `standardize_weights`: every convolution of the model uses its filters less their mean, divided by their standard deviation
    (Qiao et al. 2019), see `StandardizedConv2d`.
    """

    def make(channels: int) -> nn.Module:
        return _with_affine(GroupNorm(channels, groups, eps), scale, shift)

    return WithStandardizedWeights(make) if standardize_weights else make


@dataclass(frozen=True)
class WithStandardizedWeights:
    """A norm factory that also wants standardised filters."""

    make: NormFactory

    def __call__(self, channels: int) -> nn.Module:
        return self.make(channels)

    def finish(self, model: nn.Module) -> None:
        """Let all 2D convolutions of a model standardise their filters, those of one weight excepted. UsageError without any."""
        found = [module for module in model.modules() if type(module) is nn.Conv2d and module.weight[0].numel() > 1]
        if not found:
            raise UsageError("norm.standardize_weights=true: the model has no convolution whose weights it could standardise.")
        for module in found:
            module.__class__ = StandardizedConv2d  # keeps names, parameters and what an init makes of them


class StandardizedConv2d(nn.Conv2d):
    """A convolution by filters of mean 0 and variance 1: w' = (w - mean) / sqrt(var + 1e-10), each over one filter.

    The formula is that of Kolesnikov et al. 2020, "Big Transfer". Its outputs are sqrt(fan_in) times as large as its inputs, so a
    norm has to follow.
    """

    def forward(self, input: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(input, (self.weight - mean) * torch.rsqrt(variance + 1e-10), self.bias)


class BatchNorm(RankedBatchNorm):
    """torch's batch norm for inputs of any rank from [N, C] on; state: `running_mean`, `running_var`, both [C].

    ShapeError: in training, a batch that holds one value per channel.
    """

    choice: ClassVar[str] = "batch"
    remedy: ClassVar[str] = "Use a larger trainer.batch_size or larger images, or norm=layer."

    def forward(self, input: Tensor) -> Tensor:
        if self.world is not None and self.training:
            return self.over(self.world, input)
        gamma = _gamma(self.weight, self.bias)
        if gamma is self.weight or self.num_batches_tracked is None:
            return super().forward(input)
        self._check_input_dim(input)
        self.num_batches_tracked.add_(int(self.training))
        averages = (self.running_mean, self.running_var)
        return F.batch_norm(input, *averages, gamma, self.bias, self.training, self.momentum or 0.0, self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training and input.numel() == self.num_features:
            raise ShapeError(
                f"norm={self.choice} gets inputs of {_seen(input)} in training: one value per channel, so there is no variance. "
                f"{self.remedy}"
            )


class GhostBatchNorm(BatchNorm):
    """Batch norm over each part of the batch in training, as `ghost` says; in evaluation it is `BatchNorm`.

    ShapeError: in training, a part that holds one value per channel.
    """

    choice = "ghost"
    remedy = "Use a larger norm.size or larger images, or norm=layer."

    def __init__(self, channels: int, size: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        parts = max(len(input) // self.size, 1) if self.training else 1
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in input.tensor_split(parts)])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}"


class _PerImageNorm(nn.Module):
    """Statistics of each image over `groups` groups of neighbouring channels, the same in training and evaluation."""

    choice: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.channels, self.groups, self.eps = channels, groups, eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.channels % self.groups:
            raise ShapeError(_indivisible(self.channels, self.groups))
        if math.prod(x.shape[1:]) == self.groups:
            raise ShapeError(
                f"norm={self.choice} gets inputs of {_seen(x)}: each mean is of one value: the output is constant. {self.remedy}"
            )
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, _gamma(self.weight, self.bias), self.bias, self.eps)

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


class RMSNorm(_PerImageNorm):
    """Over C, or over C, H and W. gamma, and beta if there is one, are one per channel; 16 bits are computed in float32.

    ShapeError: an input of one channel and one position.
    """

    choice = "rms"
    remedy = "Use a wider model, larger images or norm=none."

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, 1, eps)

    def normalize(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype.itemsize < 4 else x
        y = wide * torch.rsqrt(wide.square().mean(tuple(range(1, x.ndim)), keepdim=True) + self.eps)
        channel = (-1,) + (1,) * (x.ndim - 2)
        y = y if self.weight is None else y * self.weight.view(channel)
        return (y if self.bias is None else y + self.bias.view(channel)).to(x.dtype)


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
        return F.instance_norm(x, weight=_gamma(self.weight, self.bias), bias=self.bias, eps=self.eps)


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


def _with_affine(module: nn.Module, scale: bool, shift: bool) -> nn.Module:
    """Return the norm without its gamma, its beta or both."""
    for name, wanted in (("weight", scale), ("bias", shift)):
        if not wanted:
            module.register_parameter(name, None)
    return module


def _gamma(weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Return the weight, or ones where there is a bias alone, which gets no gradient from torch's kernels on CUDA then."""
    return torch.ones_like(bias) if weight is None and bias is not None else weight


def _seen(x: Tensor) -> str:
    return f"[{', '.join(str(int(size)) for size in x.shape)}]"


def _indivisible(channels: int, groups: int) -> str:
    """Names the divisors of `channels` on either side of `groups`."""
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    around = [d for d in divisors if d < groups][-1:] + [d for d in divisors if d > groups][:1]
    near = " or ".join(f"norm.groups={d}" for d in around)
    return f"norm.groups={groups} does not divide {channels} channels. Use {near}, or another width of the model."
