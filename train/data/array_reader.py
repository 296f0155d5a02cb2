"""Batches on the device, from images that fit in memory.

Shapes: N images of the split, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from train.data.batches import WHOLE, Batching, Share, epoch_order, mixed_labels, share_of, whole_batches
from train.data.contracts import Arrays, Batch, PendingBatch
from train.data.draws import drawn_ahead
from train.data.preprocess import Preprocess
from train.parts.augment import is_own, send
from train.parts.contracts import Op, Shape
from train.rng import generator

INDICES = "indices"
"""Among the inputs of a pending batch, the places of its images in the split. The draws of a pipeline have other names."""

SHARE_OF_FREE_MEMORY = 0.5
"""Images that take less than this of a GPU's free memory live there; the rest is for the model."""


class ArrayReader:
    """Reader of one split in memory: uint8 images are gathered and augmented as bytes, then converted to float32 once.

    The images move to the device once where they fit: always, except on a GPU of which they would take half of the free memory or
    more. Then they stay on the host; each batch is gathered into pinned memory there and copied while the GPU computes. Both ways
    give the same batches, and in neither the host waits for the GPU.

    The batches of an epoch are a function of the seeds in `batching` and the epoch's number alone.
    """

    def __init__(
        self,
        source: Arrays,
        op: Op,
        preprocess: Preprocess,
        batching: Batching,
    ) -> None:
        self.op = op
        self.preprocess = preprocess
        self.batching = batching
        self.images = source.images.contiguous().to(_home(source.images, batching.device))
        self.labels = source.labels.to(batching.device)
        self.resident = self.images.device == self.labels.device
        channels, height, width = source.images.shape[1:]
        self.shape: Shape = (channels, height, width)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in the split; an epoch drops the rest of its order. UsageError when there is none."""
        return whole_batches(len(self), self.batching.batch_size)

    def epoch(self, epoch: int, start: int = 0, *, whole: bool = False) -> Iterator[Batch]:
        """Yield the training batches of an epoch, each image at most once, from step `start` of the epoch on.

        Of each batch this rank's part, unless `whole`. UsageError as `steps_per_epoch`.
        """
        steps = range(start, self.steps_per_epoch)
        share = WHOLE if whole else share_of(self.batching, self.op)
        return self._training_batches(epoch, steps, epoch_order(self.batching, len(self), epoch), share)

    def eval_batches(self) -> Iterator[Batch]:
        """Yield all images once in their own order, for evaluation; the last batch may be smaller."""
        for begin in range(0, len(self), self.batching.batch_size):
            part = slice(begin, begin + self.batching.batch_size)
            images = self.images[part] if self.resident else send(self.images[part], self.batching.device)
            yield Batch(self.preprocess.apply(self.op.evaluate(images), self.batching.memory_format), self.labels[part])

    def _training_batches(self, epoch: int, steps: range, order: Tensor, share: Share) -> Iterator[Batch]:
        """Yield the batches of `steps`. The order is copied to the device once, the draws ahead; a step takes views of both.

        Where images and numbers are there, and no op is of somebody else, making the batch is left to the step.
        """
        on_device = send(order, self.batching.device)
        size, seed = self.batching.batch_size, self.batching.augment_seed
        parts = [slice(step * size, (step + 1) * size) for step in steps]
        visits = (self.batching.visit(epoch, order[part], len(self)) for part in parts)
        turns = ((generator(seed, "augment", epoch, step), visit) for step, visit in zip(steps, visits, strict=True))
        pending = self.resident and is_own(self.op)
        for part, draws in zip(parts, drawn_ahead(self.op, turns, self.shape, self.batching.device), strict=True):
            inputs = share.of_inputs({INDICES: on_device[part], **draws})
            if pending and share.kept is None:
                yield PendingBatch(self._made, inputs)
            else:
                images = None if self.resident else self._gather(share.of_order(order[part]))
                yield share.of_batch(self._made(inputs, images))

    def _made(self, inputs: Mapping[str, Tensor], images: Tensor | None = None) -> Batch:
        """Return the batch of images that lie on the device: all of the split's, or the gathered ones, `images`."""
        if images is None:
            images = self.images.index_select(0, inputs[INDICES])
        draws = {name: drawn for name, drawn in inputs.items() if name != INDICES}
        augmented = self.op.apply(images, draws)
        labels = self.labels.index_select(0, inputs[INDICES])
        prepared = self.preprocess.apply(augmented, self.batching.memory_format)
        return Batch(prepared, labels, mixed_labels(self.op, draws, labels))

    def _gather(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 or float [B, C, H, W], copied from the host to the device."""
        batch = torch.empty((len(indices), *self.shape), dtype=self.images.dtype, pin_memory=True)
        return torch.index_select(self.images, 0, indices, out=batch).to(self.batching.device, non_blocking=True)


def _home(images: Tensor, device: torch.device) -> torch.device:
    """Return the device that holds the images."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if images.nbytes < SHARE_OF_FREE_MEMORY * free else torch.device("cpu")
