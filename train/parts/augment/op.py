"""Functions that the ops share. Shapes: N images, C channels, H height, W width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from train.parts.contracts import Shape


class TrainingOnly:
    """Base of an op that leaves validation and test images alone and keeps the shape."""

    def evaluate(self, images: Tensor) -> Tensor:
        """Return the images unchanged."""
        return images

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape unchanged."""
        return shape


def as_float(images: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [0, 1]; floats stay unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """Draw float32 [count], uniform in [low, high]."""
    return torch.rand(count, generator=generator) * (high - low) + low


def uniform_int(generator: torch.Generator, size: Sequence[int], high: Tensor | int) -> Tensor:
    """Draw int64 of `size`, uniform over 0, 1, ..., `high`, both ends included. `high`: one number, or int64 of `size`."""
    return (torch.rand(size, generator=generator, dtype=torch.float64) * (high + 1)).long()


def centres(size: int, device: torch.device) -> Tensor:
    """Return float32 [size]: where the centres of a row of pixels lie, in pixels: 0.5, 1.5, ..."""
    return torch.arange(size, device=device, dtype=torch.float32) + 0.5


def sample(images: Tensor, x: Tensor, y: Tensor, outside: str) -> Tensor:
    """Return bilinear values of float `images` [N, C, H, W] at `x`, `y`, which broadcast to [N, H', W'].

    -1 and 1 are the outer edges of the image. `outside`: what lies beyond them, "zeros" or "border" (the nearest pixel)."""
    # The callers build x and y element by element: affine_grid is a matrix product, which autocast and TF32 would round.
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)
