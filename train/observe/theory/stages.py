"""The kinds of layer that the theory knows, reduced to what it needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from train.observe.theory.gaussian import Function

Size: TypeAlias = tuple[int, int]
"""(H, W); (1, 1) without an image."""


@dataclass(frozen=True)
class Window:
    """Which inputs reach an output: the geometry of a convolution. The default is that of a linear layer."""

    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    padding: Sequence[int] = (0, 0, 0, 0)
    """left, right, top, bottom"""
    padding_mode: str = "constant"

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, list(self.padding), self.padding_mode)

    def slide(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """x [N, C, H, W] convolved with weight [out, C / groups, k, k]."""
        return F.conv2d(self.pad(x), weight, None, self.stride, 0, self.dilation, groups)

    def tap_means(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C, k, k]: the mean of what each place in the window sees while the window moves over x."""
        x = self.pad(x)
        rows, columns = (self._visits(x.shape[2 + axis], axis) for axis in (0, 1))
        return torch.stack([torch.stack([x[:, :, i, j].mean(dim=(2, 3)) for j in columns], dim=2) for i in rows], dim=2)

    def patches(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C k k, positions]: what the window sees."""
        return F.unfold(self.pad(x), self.kernel, self.dilation, 0, self.stride)

    def _visits(self, length: int, axis: int) -> list[slice]:
        """For each place in the window, where it is while the window moves along `axis` of that `length`."""
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        last = (length - dilation * (kernel - 1) - 1) // stride * stride
        return [slice(place * dilation, place * dilation + last + 1, stride) for place in range(kernel)]


@dataclass(frozen=True)
class Weighted:
    """A linear layer or convolution. `weight_variance` and `bias_variance` are second moments; `size` is that of its input."""

    name: str
    fan_in: int
    fan_out: int
    weight_variance: float
    bias_variance: float = 0.0
    window: Window = Window()
    size: Size = (1, 1)


@dataclass(frozen=True)
class Norm:
    """A norm with scale 1 and shift 0. `across_batch`: its mean runs over all images instead of one; over `channels`
    channels; and in both cases over all positions."""

    name: str
    across_batch: bool
    channels: int = 1
    eps: float = 1e-5
    size: Size = (1, 1)


@dataclass(frozen=True)
class Activation:
    """`function` works element by element on float64."""

    name: str
    function: Function


@dataclass(frozen=True)
class Dropout:
    """Sets a share `p` to zero and divides the rest by 1 - p."""

    name: str
    p: float


@dataclass(frozen=True)
class Flatten:
    """[N, C, H, W] -> [N, C H W]; `size` is (H, W)."""

    name: str
    size: Size


@dataclass(frozen=True)
class GlobalPool:
    """[N, C, H, W] -> [N, C], the mean over all positions; `size` is (H, W)."""

    name: str
    size: Size


@dataclass(frozen=True)
class Uncovered:
    """A layer that the theory does not cover, or something between two layers (`name` is ""); `reason` says what."""

    name: str
    reason: str


Stage: TypeAlias = Weighted | Norm | Activation | Dropout | Flatten | GlobalPool | Uncovered
Chain: TypeAlias = Sequence[Stage]
"""Each stage works on what the one before it returned."""
