"""How a split is cut into batches."""

from __future__ import annotations

from train.errors import UsageError


def whole_batches(images: int, batch_size: int) -> int:
    """The number of full batches among so many training images. UsageError when there is not even one."""
    if batch_size > images:
        raise UsageError(
            f"trainer.batch_size={batch_size} is more than the {images} training images. Use trainer.batch_size={images} or less."
        )
    return images // batch_size
