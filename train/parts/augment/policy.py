"""Ops that change each image by transformations drawn from a list: `trivial_augment`, `rand_augment`.

Shapes: N images, C channels, H height, W width. Every transformation is computed for all images and chosen by `torch.where`, so
that nothing waits for the device to learn which image gets which. Bytes and formulas are those of torchvision's v2 transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from train.parts.augment.op import TrainingOnly, centres, uniform_int
from train.parts.augment.pixels import grey
from train.parts.contracts import Draws, Shape

NAMES = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
"""The transformations, in the order of their numbers. A magnitude from -1 to 1 is a share of the limit; the last four ignore its
sign, the first and the last two all of it."""

LEVELS = 31
"""Magnitudes are 0, 1/30, ..., 1."""


@dataclass(frozen=True)
class Limits:
    """The strongest transformations. `translate`: in pixels, or as a share of the side; `color`: a factor's distance from 1."""

    shear: float
    translate_px: float
    translate_share: float
    degrees: float
    color: float
    bits: int


WIDE = Limits(shear=0.99, translate_px=32.0, translate_share=0.0, degrees=135.0, color=0.99, bits=6)
USUAL = Limits(shear=0.3, translate_px=0.0, translate_share=150 / 331, degrees=30.0, color=0.9, bits=4)


@dataclass(frozen=True)
class Policy(TrainingOnly):
    """The op of `trivial_augment` and `rand_augment`: `count` transformations after each other, of `level` (None: drawn, too)."""

    count: int
    level: int | None
    limits: Limits

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        """Draw `number`: int64 [N, count], of `NAMES`, and `magnitude`: float32 [N, count], from -1 to 1."""
        size = (count, self.count)
        number = uniform_int(generator, size, len(NAMES) - 1)
        drawn = uniform_int(generator, size, LEVELS - 1)
        level = drawn if self.level is None else torch.full(size, self.level)
        sign = 1 - 2 * (torch.rand(size, generator=generator) < 0.5).float()
        return {"number": number, "magnitude": sign * level / (LEVELS - 1)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the changed images, uint8."""
        images = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
        for number, magnitude in zip(draws["number"].unbind(1), draws["magnitude"].unbind(1), strict=True):
            images = transformed(images, number, magnitude, self.limits)
        return images


def trivial_augment() -> Policy:
    """TrivialAugment, wide (Müller & Hutter 2021): one transformation for each image, it and its strength drawn uniformly.

    That is torchvision's `TrivialAugmentWide`. Returns bytes; of floats in [0, 1] it takes the nearest bytes.
    """
    return Policy(1, None, WIDE)


def rand_augment(ops: Annotated[int, Interval(ge=1)] = 2, magnitude: Annotated[int, Interval(ge=0, le=LEVELS - 1)] = 9) -> Policy:
    """RandAugment (Cubuk et al. 2020): `ops` transformations for each image, drawn uniformly, of strength `magnitude` of 30.

    That is torchvision's `RandAugment`. Returns bytes; of floats in [0, 1] it takes the nearest bytes.
    """
    return Policy(ops, magnitude, USUAL)


def transformed(images: Tensor, number: Tensor, magnitude: Tensor, limits: Limits) -> Tensor:
    """Return uint8 images after the transformation `number` [N] of `NAMES`, at `magnitude` [N]."""

    def chosen(*names: str) -> Tensor:
        return torch.stack([number == NAMES.index(name) for name in names]).any(0)[:, None, None, None]

    moved = _moved(images, number, magnitude, limits)
    values = images.float()
    strength = magnitude.abs()[:, None, None, None]
    blends = NAMES[6:9] if images.shape[1] == 3 else ("Brightness", "Contrast")
    results = (
        (chosen(*NAMES[1:6]), moved),
        (chosen(*blends), _blended(values, _degenerate(values, chosen), 1 + magnitude * limits.color)),
        (chosen("Sharpness"), _sharpened(values, 1 + magnitude * limits.color)),
        (chosen("Posterize"), images & (256 - 2 ** (strength * limits.bits).round()).to(torch.uint8)),
        (chosen("Solarize"), torch.where(values >= (510 * (1 - strength)).round() / 2, 255 - images, images)),
        (chosen("AutoContrast"), _stretched(values)),
        (chosen("Equalize"), _equalized(images)),
    )
    for mask, result in results:
        images = torch.where(mask, result, images)
    return images


def _moved(images: Tensor, number: Tensor, magnitude: Tensor, limits: Limits) -> Tensor:
    """Return the images sheared, shifted or rotated; nearest pixels, zeros where the image does not reach."""
    height, width = images.shape[2:]

    def of(name: str, limit: float) -> Tensor:
        return torch.where(number == NAMES.index(name), magnitude * limit, 0)[:, None, None]

    def pixels(side: int) -> float:
        return limits.translate_px + limits.translate_share * side

    column, row = centres(width, images.device)[None, None, :], centres(height, images.device)[None, :, None]
    x, y = column - width / 2, row - height / 2
    angle = of("Rotate", limits.degrees).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    source_x = cos * x - sin * y + of("ShearX", limits.shear) * row - of("TranslateX", pixels(width)).trunc()
    source_y = sin * x + cos * y + of("ShearY", limits.shear) * column - of("TranslateY", pixels(height)).trunc()
    grid = torch.stack((source_x * (2 / width), source_y * (2 / height)), dim=-1)
    return F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(torch.uint8)


def _degenerate(values: Tensor, chosen: Callable[[str], Tensor]) -> Tensor:
    """Return what is blended with: black, the grey image, or its mean grey."""
    tone = grey(values).floor() if values.shape[1] == 3 else values
    mean = tone.mean((1, 2, 3), keepdim=True)
    return torch.where(chosen("Color"), tone, torch.where(chosen("Contrast"), mean, 0.0))


def _blended(values: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor[:, None, None, None]
    return (values * factor + other * (1 - factor)).clamp(0, 255).to(torch.uint8)


def _sharpened(values: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 kernel of 5 in the middle and 1 around; borders, and images below 3 pixels, stay."""
    height, width = values.shape[2:]
    if height <= 2 or width <= 2:
        return values.to(torch.uint8)
    inner = values[:, :, 1:-1, 1:-1]
    shifts = [(top, left) for top in range(3) for left in range(3)]
    around = torch.stack([values[:, :, top : top + height - 2, left : left + width - 2] for top, left in shifts]).sum(0)
    smooth = ((around + 4 * inner) / 13).round()
    result = values.clone()
    result[:, :, 1:-1, 1:-1] = inner + (smooth - inner) * (1 - factor)[:, None, None, None]
    return result.clamp_(0, 255).to(torch.uint8)


def _stretched(values: Tensor) -> Tensor:
    """Stretch each channel of each image to 0 ... 255; one of a single value stays."""
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    scale = ((high - low) * (1 / 255)).clamp(min=1 / 255)
    return torch.where(high > low, ((values - low) / scale).clamp(0, 255), values).to(torch.uint8)


def _equalized(images: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image, as PIL does it."""
    flat = images.flatten(2).long()
    levels = torch.arange(256, device=images.device).expand(*flat.shape[:2], 256).contiguous()
    below = torch.searchsorted(flat.sort(dim=2).values, levels, right=False)  # pixels below each level
    brightest = (flat == flat.amax(2, keepdim=True)).sum(2, keepdim=True)
    step = (flat.shape[2] - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table.gather(2, flat), flat).view(images.shape).to(torch.uint8)
