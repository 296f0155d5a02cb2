"""The kinds of layer that the theory covers, with the properties that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from train.observe.theory.gaussian import Function

Size: TypeAlias = tuple[int, int]
"""(H, W); (1, 1) if there are no spatial dimensions."""


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution: which inputs reach an output. The default is a linear layer."""

    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    padding: Sequence[int] = (0, 0, 0, 0)
    """left, right, top, bottom"""
    padding_mode: str = "constant"

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, list(self.padding), self.padding_mode)

    def slide(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """Convolve x [N, C, H, W] with weight [out, C / groups, k, k]."""
        return F.conv2d(self.pad(x), weight, None, self.stride, 0, self.dilation, groups)

    def tap_means(self, x: Tensor) -> Tensor:
        """Return [N, C, k, k]: for each tap of the window, the mean of its inputs while the window moves over x [N, C, H, W]."""
        x = self.pad(x)
        rows, columns = (self._tap_slices(x.shape[2 + axis], axis) for axis in (0, 1))
        return torch.stack([torch.stack([x[:, :, i, j].mean(dim=(2, 3)) for j in columns], dim=2) for i in rows], dim=2)

    def patches(self, x: Tensor) -> Tensor:
        """Return the window's contents at every position, [N, C k k, positions], for x [N, C, H, W]."""
        return F.unfold(self.pad(x), self.kernel, self.dilation, 0, self.stride)

    def _tap_slices(self, length: int, axis: int) -> list[slice]:
        """Return for each tap of the window the positions that it visits along `axis`, which has this `length`."""
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        last = (length - dilation * (kernel - 1) - 1) // stride * stride
        return [slice(tap * dilation, tap * dilation + last + 1, stride) for tap in range(kernel)]


@dataclass(frozen=True)
class Weighted:
    """A linear layer or convolution. `weight_variance` and `bias_variance` are second moments; `size` is the input's."""

    name: str
    fan_in: int
    fan_out: int
    weight_variance: float
    bias_variance: float = 0.0
    window: Window = Window()
    size: Size = (1, 1)


@dataclass(frozen=True)
class Norm:
    """A norm with scale 1 and shift 0. Its mean is over all positions and over `channels` channels.

    `across_batch`: the mean is over all images, otherwise over one image.
    """

    name: str
    across_batch: bool
    channels: int = 1
    eps: float = 1e-5
    size: Size = (1, 1)


@dataclass(frozen=True)
class Activation:
    """An activation; `function` is elementwise and works on float64."""

    name: str
    function: Function


@dataclass(frozen=True)
class Dropout:
    """Dropout: sets a share `p` to zero and divides the rest by 1 - p."""

    name: str
    p: float


@dataclass(frozen=True)
class Flatten:
    """Flattening, [N, C, H, W] -> [N, C H W]; `size` is (H, W)."""

    name: str
    size: Size


@dataclass(frozen=True)
class GlobalPool:
    """Global average pooling, [N, C, H, W] -> [N, C]; `size` is (H, W)."""

    name: str
    size: Size


@dataclass(frozen=True)
class Uncovered:
    """A layer that the theory does not cover, or an operation between two layers (`name` is ""); `reason` describes it."""

    name: str
    reason: str


Stage: TypeAlias = Weighted | Norm | Activation | Dropout | Flatten | GlobalPool | Uncovered
Chain: TypeAlias = Sequence[Stage]
"""Each stage processes the output of the previous one."""
