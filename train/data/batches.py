"""The division of a split into batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from train.data.contracts import Batch, MixedLabels
from train.errors import UsageError
from train.parts.augment import is_own, mixes, send
from train.parts.contracts import Draws, Mixing, Op, Visit
from train.rng import derive, generator
from train.world import ALONE, World


@dataclass(frozen=True)
class Batching:
    """The size of batches, the device they are put on, and the seeds that decide what is in them."""

    batch_size: int
    device: torch.device
    order_seed: int
    augment_seed: int
    memory_format: torch.memory_format = torch.contiguous_format
    world: World = ALONE

    def visit(self, epoch: int, indices: Tensor, size: int) -> Visit:
        """Return what augmentations may know of a batch. `indices`: int64 [N], of a split of `size` images."""
        return Visit(epoch, indices, size, self._seed_of_images)

    @cached_property
    def _seed_of_images(self) -> int:
        return derive(self.augment_seed, "augment")


@dataclass(frozen=True)
class Share:
    """What a rank has of each training batch. `made`: which of its images it makes; `kept`: which of those it trains on.

    Both are everything for a run of one process. Images that are mixed need each other, so that every rank makes all of them; so
    it is with an op that is not of this program, which may look at the whole batch.
    """

    made: slice | None = None
    kept: slice | None = None

    def of_inputs(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the numbers of which the images are made, for those that are made. Their first dimension counts the images."""
        return inputs if self.made is None else {name: value[self.made] for name, value in inputs.items()}

    def of_order(self, order: Tensor) -> Tensor:
        return order if self.made is None else order[self.made]

    def of_batch(self, batch: Batch) -> Batch:
        """Return the part of the images that were made on which to train."""
        if self.kept is None:
            return batch
        mixed = batch.mixed and MixedLabels(batch.mixed.others[self.kept], batch.mixed.share[self.kept])
        return Batch(batch.images[self.kept], batch.labels[self.kept], mixed)


WHOLE = Share()


def share_of(batching: Batching, op: Op) -> Share:
    """Return this rank's share of the batches."""
    if batching.world.is_alone:
        return WHOLE
    part = batching.world.part(batching.batch_size)
    return Share(kept=part) if mixes(op) or not is_own(op) else Share(made=part)


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
