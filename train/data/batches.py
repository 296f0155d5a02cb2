"""The division of a split into batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.errors import UsageError


@dataclass(frozen=True)
class Batching:
    """The size of batches, the device they are put on, and the seeds that decide what is in them."""

    batch_size: int
    device: torch.device
    order_seed: int
    augment_seed: int
    memory_format: torch.memory_format = torch.contiguous_format


def whole_batches(images: int, batch_size: int) -> int:
    """Return the number of full batches in a training split of so many images. UsageError when there is none."""
    if batch_size > images:
        raise UsageError(
            f"trainer.batch_size={batch_size} is more than the {images} training images. Use trainer.batch_size={images} or less."
        )
    return images // batch_size
