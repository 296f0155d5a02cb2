"""Building blocks of the models. A dict of modules is a chain of named layers in the order of the signal."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from train.parts.contracts import ActivationFactory, NormFactory


class GlobalAveragePool(nn.Module):
    """[N, C, H, W] -> [N, C]: the mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))  # nn.AdaptiveAvgPool2d has no deterministic backward on CUDA


class StochasticDepth(nn.Module):
    """A residual branch that is dropped for each image with probability `p` in training, and else divided by 1 - p (Huang et al.
    2016; scaled as torchvision's of the same name in its mode `row`)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.empty((len(x),) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class HalvingMaxPool(nn.Module):
    """The maximum of 2x2 pixels, at stride 2, without an odd last row or column. nn.MaxPool2d is not deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        upper, lower = x[:, :, 0:height:2, :width], x[:, :, 1:height:2, :width]
        rows = torch.maximum(upper, lower)
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class GlobalMaxPool(nn.Module):
    """[N, C, H, W] -> [N, C]: the maximum over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Scale(nn.Module):
    """The input times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def chain(modules: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def conv3x3(inputs: int, outputs: int, norm: NormFactory | None, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size (stride 1) or halves it, rounding up (stride 2)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=norm is None)


def conv_unit(
    inputs: int, outputs: int, norm: NormFactory | None, activation: ActivationFactory, number: int | str = "", stride: int = 1
) -> dict[str, nn.Module]:
    """Return a 3x3 convolution, norm if there is one, and activation, named `conv`, `norm`, `act`, each followed by `number`."""
    modules: dict[str, nn.Module] = {f"conv{number}": conv3x3(inputs, outputs, norm, stride)}
    return modules | norm_act(outputs, norm, activation, number)


def norm_act(
    channels: int, norm: NormFactory | None, activation: ActivationFactory, number: int | str = ""
) -> dict[str, nn.Module]:
    modules = {} if norm is None else {f"norm{number}": norm(channels)}
    return modules | {f"act{number}": activation()}


def drop(dropout: float, number: int | str = "") -> dict[str, nn.Module]:
    return {f"dropout{number}": nn.Dropout(dropout)} if dropout > 0 else {}


def pooled_head(channels: int, classes: int, dropout: float) -> dict[str, nn.Module]:
    """Return global average pooling, dropout if any, and the linear layer that gives the logits."""
    return {"pool": GlobalAveragePool(), **drop(dropout), "head": nn.Linear(channels, classes)}
