"""Random and centre crops at several scales, for image files of any size and for images in memory.

Shapes: N images, C channels, H height, W width; L the length of the short side that an image is resized to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Len
from torch import Tensor

from train.errors import UsageError
from train.parts.augment.op import as_float, centres, sample, uniform_int
from train.parts.contracts import Draws, Shape

Region = tuple[float, float, float, float]


def resized(side: int, short: int, target: Tensor) -> Tensor:
    """Return int64 [N], the length of `side` when the short side of length `short` becomes `target` [N]; rounded down."""
    return target * side // short


def cut(images: Tensor, target: Tensor, top: Tensor, left: Tensor, crop: int) -> Tensor:
    """Return the crops at `top`, `left` [N] of the images resized to the short side `target` [N], float32 [N, C, crop, crop].

    Bilinear; only the crop is computed."""
    height, width = images.shape[2:]
    short = min(height, width)
    at = centres(crop, images.device)
    x = (left[:, None] + at) * (2 / resized(width, short, target)[:, None]) - 1
    y = (top[:, None] + at) * (2 / resized(height, short, target)[:, None]) - 1
    return sample(as_float(images), x[:, None, :], y[:, :, None], "border")


@dataclass(frozen=True)
class MultiScale:
    """The op of `multi_scale`. Also a `Framing`: for image files, the crop as a region of the source."""

    short_side: Sequence[int]
    crop: int
    test_short_side: int
    fit_to_data: bool

    def _lengths(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return lowest L, highest L, L at test time, and crop, in pixels, for images of this size."""
        low, high = self.short_side
        scale = min(height, width) / self.crop if self.fit_to_data else 1.0
        low, high, test, crop = (round(length * scale) for length in (low, high, self.test_short_side, self.crop))
        return low, high, test, crop

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw `target`: L, and `top`, `left`: the corner of the crop in the resized image; int64 [N]."""
        _, height, width = shape
        short = min(height, width)
        low, high, _, crop = self._lengths(height, width)
        target = low + uniform_int(generator, (count,), high - low)
        top = uniform_int(generator, (count,), resized(height, short, target) - crop)
        left = uniform_int(generator, (count,), resized(width, short, target) - crop)
        return {"target": target, "top": top, "left": left}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the crops, float32 [N, C, crop, crop]."""
        crop = self._lengths(*images.shape[2:])[3]
        return cut(images, draws["target"], draws["top"], draws["left"], crop)

    def evaluate(self, images: Tensor) -> Tensor:
        """Return the centre crop of the images resized to the test short side, float32 [N, C, crop, crop]."""
        count, _, height, width = images.shape
        _, _, test, crop = self._lengths(height, width)
        target = torch.full((count,), test, device=images.device)
        top, left = ((resized(side, min(height, width), target) - crop) // 2 for side in (height, width))
        return cut(images, target, top, left, crop)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (C, crop, crop); with fit_to_data the crop is as long as the short side of the data."""
        crop = self._lengths(shape[1], shape[2])[3]
        return shape[0], crop, crop

    def train_region(self, generator: torch.Generator, height: int, width: int) -> Region:
        """Draw a random crop, as (top, left, height, width) in pixels of the source. `fit_to_data` has no effect here."""
        low, high = self.short_side
        target = low + int(uniform_int(generator, (), high - low))
        across, down = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        side = self.crop * min(height, width) / target
        return (height - side) * down, (width - side) * across, side, side

    def test_region(self, height: int, width: int) -> Region:
        """Return the centre crop at the test short side, as (top, left, height, width) in pixels of the source."""
        side = self.crop * min(height, width) / self.test_short_side
        return (height - side) / 2, (width - side) / 2, side, side

    def size(self) -> tuple[int, int]:
        """Return (crop, crop) as set."""
        return self.crop, self.crop


def multi_scale(
    short_side: Annotated[Sequence[Annotated[int, Ge(1)]], Len(2, 2)] = (256, 480),
    crop: Annotated[int, Ge(1)] = 224,
    test_short_side: Annotated[int, Ge(1)] = 256,
    fit_to_data: bool = True,
) -> MultiScale:
    """Random crops at random scales (Simonyan & Zisserman 2014, He et al. 2015).

    Training: resize the image so that its short side is L, drawn uniformly from the whole numbers `short_side[0]` to
    `short_side[1]`, and cut a square of `crop` pixels out at a uniformly random place. Testing: L = `test_short_side`, centre
    crop. Images in memory are resized bilinearly without a low-pass filter, which only matters where L is below their size.

    fit_to_data: for images in memory of short side s, all four numbers are multiplied by s / crop and rounded, so that the
    result is s x s; for 28 pixels: L from [32, 60], crop 28, test 32. False takes the numbers as they are. Image files always do.
    UsageError when a range is reversed, or a short side is below the crop.
    """
    low, high = short_side
    if low > high:
        raise UsageError(f"augment.multi_scale.short_side=[{low},{high}]: the first number exceeds the second; swap them.")
    for option, length in (("short_side", low), ("test_short_side", test_short_side)):
        if length < crop:
            shown = f"[{low},{high}]" if option == "short_side" else str(length)
            raise UsageError(
                f"augment.multi_scale.{option}={shown}: a crop of {crop} pixels does not fit into a short side of {length}; "
                f"raise it to {crop} or lower augment.multi_scale.crop."
            )
    return MultiScale(short_side, crop, test_short_side, fit_to_data)
