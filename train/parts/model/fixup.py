"""The residual net of `resnet` without norms, by Zhang, Dauphin & Ma 2019, "Fixup initialization: residual learning without
normalization": scalar biases and gains in the place of the norms, and branches that begin at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.errors import UsageError
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import StochasticDepth, chain, pooled_head
from train.parts.model.resnet import StridedShortcut, Width, residual_stages


def fixup(
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
    """Return the net of `resnet` with a scalar bias before each convolution, activation and the head, and a gain in each branch.

    After the init, the first convolution of each of L branches is multiplied by L^(-1/2), the last one and the head are set to 0;
    the stem keeps what the init gave it. With `init=kaiming` that is the paper's.
    Names: `stem.conv`, `stage2.block1.conv1`, `stage2.block1.shift1`, ..., `head`.
    UsageError: a norm, or a `depth` that is not 6n + 2 with n >= 1.
    """
    if norm is not None:
        raise UsageError("model=fixup takes the place of norms and has none. Use norm=none, or model=resnet with this norm.")

    def block(inputs: int, outputs: int, stride: int, drop: float) -> nn.Module:
        return FixupBlock(inputs, outputs, activation, stride, drop)

    stem = {"conv": _conv3x3(input_shape[0], width), "shift": Shift(), "act": activation()}
    stages, channels = residual_stages(depth, width, stochastic_depth, block)
    ending = pooled_head(channels, classes, dropout)
    head = ending.pop("head")
    return Fixup({"stem": chain(stem), **stages, **ending, "shift": Shift(), "head": head})


class Fixup(nn.Sequential):
    """The net of `fixup`, which has the last word on its initial weights."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        blocks = [module for module in self.modules() if isinstance(module, FixupBlock)]
        self._factors: dict[nn.Module, float] = {block.conv1: len(blocks) ** -0.5 for block in blocks}
        self._factors |= {block.conv2: 0.0 for block in blocks} | {self.get_submodule("head"): 0.0}

    def init_factor(self, layer: nn.Module) -> float:
        """Return what the weights are multiplied by after the init."""
        return self._factors.get(layer, 1.0)

    @torch.no_grad()
    def finish_init(self, images: Tensor) -> None:  # noqa: ARG002
        """Multiply the weights of the branches and of the head by their factors."""
        for layer, factor in self._factors.items():
            layer.get_parameter("weight").mul_(factor)
        nn.init.zeros_(self.get_submodule("head").get_parameter("bias"))


class FixupBlock(nn.Module):
    """A residual block: y = act(x' + gain conv(act(conv(x + b1) + b2) + b3) + b4), with x' as in `ResidualBlock`.

    x [N, inputs, H, W] -> y [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, activation: ActivationFactory, stride: int = 1, drop: float = 0.0) -> None:
        super().__init__()
        self.shift1 = Shift()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.shift2 = Shift()
        self.act1 = activation()
        self.shift3 = Shift()
        self.conv2 = _conv3x3(outputs, outputs)
        self.gain = Gain()
        self.shift4 = Shift()
        self.drop = StochasticDepth(drop) if drop > 0 else None
        self.act2 = activation()
        self.shortcut = nn.Identity() if stride == 1 else StridedShortcut(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.shift2(self.conv1(self.shift1(x))))
        y = self.shift4(self.gain(self.conv2(self.shift3(y))))
        return self.act2(self.shortcut(x) + (y if self.drop is None else self.drop(y)))


class Shift(nn.Module):
    """The input plus one learned number, which begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class Gain(nn.Module):
    """The input times one learned number, which begins at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
