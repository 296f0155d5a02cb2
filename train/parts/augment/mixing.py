"""Ops that mix each image with the one before it in the batch, the first with the last; the order of a batch is random.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from train.parts.augment.op import TrainingOnly, as_float, uniform_int
from train.parts.contracts import Draws, Mixture, Shape


@dataclass(frozen=True)
class _Mixing(TrainingOnly):
    alpha: float

    def mixture(self, draws: Draws) -> Mixture:
        share = draws["share"]
        return Mixture(torch.arange(len(share), device=share.device).roll(1), share)


@dataclass(frozen=True)
class Mixup(_Mixing):
    """The op of `mixup`."""

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        """Draw `share`: float32 [N], what stays of each image."""
        return {"share": beta(generator, count, self.alpha).float()}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the mixed images, float32."""
        images, share = as_float(images), draws["share"][:, None, None, None]
        return images.roll(1, 0) * (1 - share) + images * share


def mixup(alpha: Annotated[float, Gt(0)] = 0.2) -> Mixup:
    """Mixup (Zhang et al. 2018): the weighted mean of two images, whose labels the loss weighs alike.

    The weight is drawn from Beta(alpha, alpha), for each image anew. The accuracy on mixed images counts either label by it.
    """
    return Mixup(alpha)


@dataclass(frozen=True)
class Cutmix(_Mixing):
    """The op of `cutmix`."""

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw `top`, `left`, `bottom`, `right`: int64 [N], the box, without its ends; `share`: float32 [N], what is outside."""
        _, height, width = shape
        half = 0.5 * (1 - beta(generator, count, self.alpha)).sqrt()
        edges: list[Tensor] = []
        for side in (height, width):
            centre, reach = uniform_int(generator, (count,), side - 1), (half * side).long()
            edges += [(centre - reach).clamp(min=0), (centre + reach).clamp(max=side)]
        top, bottom, left, right = edges
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return {"top": top, "left": left, "bottom": bottom, "right": right, "share": share}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images with the other's pixels in the box. Keeps the type of the images."""
        row = torch.arange(images.shape[2], device=images.device)
        column = torch.arange(images.shape[3], device=images.device)
        rows = (row >= draws["top"][:, None]) & (row < draws["bottom"][:, None])
        columns = (column >= draws["left"][:, None]) & (column < draws["right"][:, None])
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], images.roll(1, 0), images)


def cutmix(alpha: Annotated[float, Gt(0)] = 1.0) -> Cutmix:
    """CutMix (Yun et al. 2019): a box of another image in the place of one's own; the loss weighs the labels by their areas.

    Before it is cut at the borders, the box has an area of 1 - s of the image, with s from Beta(alpha, alpha), and its centre
    lies anywhere, for each image anew. The accuracy on mixed images counts either label by its area.
    """
    return Cutmix(alpha)


def beta(generator: torch.Generator, count: int, alpha: float) -> Tensor:
    """Draw float64 [count] from Beta(alpha, alpha)."""
    # What torch.distributions.Beta draws has no generator of its own.
    shape = torch.full((2, count), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return first / (first + second)
