"""Ops that change values in place. Shapes: N images, C channels, H height, W width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval, Len
from torch import Tensor

from train.errors import UsageError
from train.parts.augment.op import TrainingOnly, as_float, uniform, uniform_int
from train.parts.contracts import Draws, Shape

ATTEMPTS = 10
"""The number of rectangles that `erase` draws for an image, of which it takes the first that fits."""


def grey(images: Tensor) -> Tensor:
    """Return [N, 1, H, W]: luma 0.2989 R + 0.587 G + 0.114 B of three channels (ITU-R BT.601); the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Return factor * images + (1 - factor) * other, clamped to [0, 1]; `factor` [N]."""
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


@dataclass(frozen=True)
class Color(TrainingOnly):
    """The op of `color`."""

    brightness: float
    contrast: float
    saturation: float

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        """Draw `brightness`, `contrast`, `saturation`: float32 [N], factors."""
        widths = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        return {name: uniform(generator, count, max(0.0, 1 - width), 1 + width) for name, width in widths.items()}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the changed images, float32 in [0, 1]."""
        images = blend(as_float(images), 0.0, draws["brightness"])
        images = blend(images, grey(images).mean((2, 3), keepdim=True), draws["contrast"])
        return blend(images, grey(images), draws["saturation"]) if images.shape[1] == 3 else images


def color(
    brightness: Annotated[float, Ge(0)] = 0.4,
    contrast: Annotated[float, Ge(0)] = 0.4,
    saturation: Annotated[float, Ge(0)] = 0.4,
) -> Color:
    """Blend each image with black (brightness), with its mean grey (contrast) and with its grey self (saturation), in this order.

    A setting v draws the factor uniformly from [max(0, 1 - v), 1 + v]: 0 blends all the way, 1 changes nothing, above 1
    exaggerates; each result is clamped to [0, 1], so that values outside are lost. Saturation acts on three channels only. The
    settings are those of torchvision's ColorJitter, which also shuffles the order.
    """
    return Color(brightness, contrast, saturation)


def fill_rectangles(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return the images with zeros in the rectangle of each, which may reach beyond the image; bounds are int64 [N]."""
    row = torch.arange(images.shape[2], device=images.device) - top[:, None]
    column = torch.arange(images.shape[3], device=images.device) - left[:, None]
    rows = (row >= 0) & (row < height[:, None])
    columns = (column >= 0) & (column < width[:, None])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


@dataclass(frozen=True)
class Erase(TrainingOnly):
    """The op of `erase`."""

    p: float
    scale: Sequence[float]
    ratio: Sequence[float]

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw `top`, `left`, `height`, `width`: int64 [N], the rectangle; of height 0 where nothing is erased."""
        _, height, width = shape
        tries = count * ATTEMPTS
        area = uniform(generator, tries, *self.scale) * (height * width)
        ratio = uniform(generator, tries, *map(math.log, self.ratio)).exp()
        high, wide = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = ((high >= 1) & (high <= height) & (wide >= 1) & (wide <= width)).view(count, ATTEMPTS)
        first = fits.int().argmax(1, keepdim=True)
        chosen = fits.any(1) & (torch.rand(count, generator=generator) < self.p)
        high, wide = (side.view(count, ATTEMPTS).gather(1, first)[:, 0] * chosen for side in (high, wide))
        top, left = (uniform_int(generator, (count,), last) for last in (height - high, width - wide))
        return {"top": top, "left": left, "height": high, "width": wide}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Fill the drawn rectangles with zeros."""
        return fill_rectangles(images, draws["top"], draws["left"], draws["height"], draws["width"])


def erase(
    p: Annotated[float, Interval(ge=0, le=1)] = 0.5,
    scale: Annotated[Sequence[Annotated[float, Interval(gt=0, le=1)]], Len(2, 2)] = (0.02, 0.4),
    ratio: Annotated[Sequence[Annotated[float, Gt(0)]], Len(2, 2)] = (0.3, 3.3),
) -> Erase:
    """Random erasing (Zhong et al. 2017): with probability `p`, fill a random rectangle of the image with zeros.

    Its share of the area is drawn uniformly from `scale`, its height over width from `ratio`, uniformly in the logarithm (the
    paper: uniformly), its place uniformly. Rectangles that do not fit are drawn again, at most 10 times. Keeps the type of the
    images. UsageError when the first number of a range exceeds the second.
    """
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if low > high:
            raise UsageError(f"augment.erase.{name}=[{low},{high}]: the first number exceeds the second; swap them.")
    return Erase(p, scale, ratio)


@dataclass(frozen=True)
class Cutout(TrainingOnly):
    """The op of `cutout`."""

    size: int | None

    def side(self, height: int, width: int) -> int:
        """Return the side of the square in an image of this size, in pixels."""
        return min(height, width) // 2 if self.size is None else self.size

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw `top`, `left`: int64 [N], the corner of the square, which may lie outside of the image."""
        _, height, width = shape
        half = self.side(height, width) // 2
        top, left = (uniform_int(generator, (count,), length - 1) - half for length in (height, width))
        return {"top": top, "left": left}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Fill the drawn squares with zeros."""
        side = torch.full_like(draws["top"], self.side(*images.shape[2:]))
        return fill_rectangles(images, draws["top"], draws["left"], side, side)


def cutout(size: Annotated[int, Ge(1)] | None = None) -> Cutout:
    """Cutout (DeVries & Taylor 2017): fill a square of `size` pixels with zeros, centred on a pixel drawn uniformly.

    What lies outside of the image is lost, so that some images keep more than others; the paper found that this matters. That is
    why `erase`, whose rectangles fit, is another choice. None: half of the short side, the paper's 16 pixels for CIFAR-10. The
    zeros are raw zeros (black), where the paper fills with the mean colour. Keeps the type of the images.
    """
    return Cutout(size)
