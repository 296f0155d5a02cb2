"""The division of a split into batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from train.data.contracts import MixedLabels
from train.errors import UsageError
from train.parts.augment import send
from train.parts.contracts import Draws, Mixing, Op, Visit
from train.rng import derive, generator


@dataclass(frozen=True)
class Batching:
    """The size of batches, the device they are put on, and the seeds that decide what is in them."""

    batch_size: int
    device: torch.device
    order_seed: int
    augment_seed: int
    memory_format: torch.memory_format = torch.contiguous_format

    def visit(self, epoch: int, indices: Tensor, size: int) -> Visit:
        """Return what augmentations may know of a batch. `indices`: int64 [N], of a split of `size` images."""
        return Visit(epoch, indices, size, self._seed_of_images)

    @cached_property
    def _seed_of_images(self) -> int:
        return derive(self.augment_seed, "augment")


def mixed_labels(op: Op, draws: Draws, labels: Tensor) -> MixedLabels | None:
    """Return the labels that the draws of an op mix into those of a batch; None if it mixes nothing."""
    mixture = op.mixture(draws) if isinstance(op, Mixing) else None
    if mixture is None:
        return None
    return MixedLabels(labels.index_select(0, send(mixture.partner, labels.device)), send(mixture.share, labels.device))


def epoch_order(batching: Batching, images: int, epoch: int) -> Tensor:
    """Return the order of a split's images in an epoch, int64 [images]."""
    return torch.randperm(images, generator=generator(batching.order_seed, "order", epoch))


def whole_batches(images: int, batch_size: int) -> int:
    """Return the number of full batches in a training split of so many images. UsageError when there is none."""
    if batch_size > images:
        raise UsageError(
            f"trainer.batch_size={batch_size} is more than the {images} training images. Use trainer.batch_size={images} or less."
        )
    return images // batch_size
