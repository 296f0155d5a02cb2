"""Ops that move pixels. Shapes: N images, C channels, H height, W width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from train.parts.augment.op import TrainingOnly, as_float, centres, sample, uniform, uniform_int
from train.parts.contracts import Draws, Shape, Visit

LARGE = 2**14
"""Values of an image from which on a call of torch for each image costs less than a mask over the batch, on a CPU."""


@dataclass(frozen=True)
class Flip(TrainingOnly):
    """The op of `flip`."""

    p: float

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        """Draw `flip`: bool [N]."""
        return {"flip": torch.rand(count, generator=generator) < self.p}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Mirror the drawn images."""
        chosen = draws["flip"]
        if images.device.type == "cpu" and images.shape[1:].numel() >= LARGE:
            return _flipped_one_by_one(images, chosen)
        return torch.where(chosen[:, None, None, None], images.flip(3), images)


def _flipped_one_by_one(images: Tensor, chosen: Tensor) -> Tensor:
    """Return what `torch.where` would; for bytes of 224 x 224 pixels in a tenth of its time on a CPU."""
    flipped = torch.empty_like(images)
    for source, target, is_chosen in zip(images, flipped, chosen.tolist(), strict=True):
        target.copy_(source.flip(2) if is_chosen else source)
    return flipped


def flip(p: Annotated[float, Interval(ge=0, le=1)] = 0.5) -> Flip:
    """Mirror each image left to right with probability `p`. Keeps the type of the images."""
    return Flip(p)


class AlternatingFlip(Flip):
    """The op of `alternating_flip`."""

    def draw_for(self, generator: torch.Generator, visit: Visit, shape: Shape) -> Draws:  # noqa: ARG002
        """Return `flip`: bool [N], the other value than in the epoch before."""
        first = _mirrored_first(visit.seed, visit.size)[visit.indices]
        return {"flip": first ^ (visit.epoch % 2 == 1)}


@lru_cache(maxsize=4)
def _mirrored_first(seed: int, size: int) -> Tensor:
    """Draw bool [size]: which images of a split are mirrored in the first epoch. The caller changes nothing in it."""
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.5


def alternating_flip() -> AlternatingFlip:
    """Mirror half of the images in the first epoch, drawn at random, then each image in every other epoch (Jordan 2024, "94% on
    CIFAR-10 in 3.29 seconds on a single GPU", section 3.6). Two epochs show both sides of every image. Keeps the type.
    """
    return AlternatingFlip(p=0.5)


@dataclass(frozen=True)
class Crop(TrainingOnly):
    """The op of `crop`."""

    padding: int | None

    def pixels(self, height: int, width: int) -> int:
        """Return the number of zero pixels added to each side of an image."""
        return math.ceil(min(height, width) / 8) if self.padding is None else self.padding

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw `top`, `left`: int64 [N], the corner of the crop in the padded image."""
        top, left = uniform_int(generator, (2, count), 2 * self.pixels(shape[1], shape[2]))
        return {"top": top, "left": left}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Cut one crop of the original size out of each padded image."""
        count, channels, height, width = images.shape
        padding = self.pixels(height, width)
        padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)
        row = draws["top"][:, None] + torch.arange(height, device=images.device)
        column = draws["left"][:, None] + torch.arange(width, device=images.device)
        # One flat index per pixel of the result: several times faster than indexing rows and columns apart.
        index = row[:, :, None] * (width + 2 * padding) + column[:, None, :]
        return padded.gather(2, index.view(count, 1, -1).expand(-1, channels, -1)).view(count, channels, height, width)


def crop(padding: Annotated[int, Ge(0)] | None = None) -> Crop:
    """Surround each image with `padding` pixels of zeros (raw zeros: black) and cut the original size out at a random place.

    Each of the (2 padding + 1)^2 places is equally likely. None: an eighth of the short side, rounded up; 4 for images of 28 to
    32 pixels, as is customary on CIFAR (He et al. 2015). Keeps the type of the images.
    """
    return Crop(padding)


@dataclass(frozen=True)
class Rotate(TrainingOnly):
    """The op of `rotate`."""

    degrees: float

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        """Draw `radians`: float32 [N], anticlockwise."""
        limit = math.radians(self.degrees)
        return {"radians": uniform(generator, count, -limit, limit)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the rotated images, float32."""
        height, width = images.shape[2:]
        x = centres(width, images.device)[None, None, :] - width / 2
        y = centres(height, images.device)[None, :, None] - height / 2
        cos, sin = draws["radians"].cos()[:, None, None], draws["radians"].sin()[:, None, None]
        return sample(as_float(images), (cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height), "zeros")


def rotate(degrees: Annotated[float, Interval(ge=0, le=180)] = 15.0) -> Rotate:
    """Rotate each image about its centre by an angle drawn uniformly from [-degrees, degrees]; bilinear, zeros where the
    image does not reach."""
    return Rotate(degrees)
