"""Batches on the device, from image files that are decoded as they are needed.

Shapes: N images of the split, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from train.data.batches import WHOLE, Batching, Share, epoch_order, mixed_labels, share_of, whole_batches
from train.data.cached_image import CachedReader
from train.data.contracts import Batch, Files
from train.data.decoding_pool import Decoder, DecodeRequest, DecodingPool
from train.data.draws import drawn
from train.data.preprocess import Kind, Preprocess, channel_histogram, preprocess_from_histogram
from train.parts.augment import Pipeline, send
from train.parts.contracts import Framing, Shape
from train.rng import generator

BATCH_OPS = 1
"""Third index of a batch's draws, which separates them from those of the image whose index equals the step."""

FIT_BATCH = 64


class FolderReader:
    """Reader of one split of image files, with the interface of `ArrayReader`.

    Each image is cut to its region and resized while it is decoded, in `workers` processes (0: in this one): by the framing that
    `op` starts with (`multi_scale`), otherwise by `framing`. What remains of `op` runs batched on the device, uint8
    [B, C, H, W].

    The batches of an epoch are a function of the seeds in `batching` and the epoch's number alone: an image's region is
    drawn from its index in the split, so the number of workers cannot matter. The processes of `epoch` are kept from epoch to
    epoch, those of `eval_batches` end with it; all of them end with this process.

    While reading: RunError naming the file that cannot be decoded, with no process left behind.
    """

    def __init__(
        self,
        source: Files,
        op: Pipeline,
        preprocess: Preprocess,
        batching: Batching,
        *,
        framing: Framing,
        channels: int = 3,
        workers: int = 0,
    ) -> None:
        framing = framing if op.framing is None else op.framing
        self.op = op.rest
        self.source = source
        self.preprocess = preprocess
        self.batching = batching
        self.labels = source.labels.to(batching.device)
        self.shape: Shape = (channels, *framing.size())
        decoder = _decoder(source, framing, channels, batching.augment_seed)
        pin = batching.device.type == "cuda"
        self._training = DecodingPool(decoder, workers, keep=True, pin=pin)
        self._evaluation = DecodingPool(decoder, workers, keep=False, pin=pin)

    def __len__(self) -> int:
        """The number of images in the split."""
        return len(self.source)

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in the split; an epoch drops the rest of its order. UsageError when there is none."""
        return whole_batches(len(self), self.batching.batch_size)

    def epoch(self, epoch: int, start: int = 0, *, whole: bool = False) -> Iterator[Batch]:
        """Yield the training batches of an epoch, each image at most once, from step `start` on; images of earlier steps, and of
        other ranks' parts unless `whole`, are not decoded. One iterator at a time. UsageError as `steps_per_epoch`."""
        steps = range(start, self.steps_per_epoch)
        share = WHOLE if whole else share_of(self.batching, self.op)
        return self._training_batches(epoch, steps, epoch_order(self.batching, len(self), epoch), share)

    def eval_batches(self) -> Iterator[Batch]:
        """Yield all images once in their own order, cut as for testing; the last batch may be smaller."""
        parts = torch.arange(len(self)).split(self.batching.batch_size)
        requests = (_request(self.source, part, None) for part in parts)
        for part, images in zip(parts, self._evaluation.decoded(requests), strict=True):
            yield self._batch(self.op.evaluate(send(images, self.batching.device)), part)

    def close(self) -> None:
        """End the processes; reading again starts new ones."""
        self._training.close()
        self._evaluation.close()

    def _training_batches(self, epoch: int, steps: range, order: Tensor, share: Share) -> Iterator[Batch]:
        size = self.batching.batch_size
        parts = [order[step * size : (step + 1) * size] for step in steps]
        requests = (_request(self.source, share.of_order(part), epoch) for part in parts)
        for step, part, images in zip(steps, parts, self._training.decoded(requests), strict=True):
            draw = generator(self.batching.augment_seed, "augment", epoch, step, BATCH_OPS)
            draws = share.of_inputs(drawn(self.op, draw, self.batching.visit(epoch, part, len(self)), self.shape))
            batch = self._batch(self.op.apply(send(images, self.batching.device), draws), share.of_order(part))
            yield share.of_batch(replace(batch, mixed=mixed_labels(self.op, draws, batch.labels)))

    def _batch(self, images: Tensor, part: Tensor) -> Batch:
        labels = self.labels.index_select(0, send(part, self.batching.device))
        return Batch(self.preprocess.apply(images, self.batching.memory_format), labels)


def fit_files(
    kind: Kind, train: Files, framing: Framing, *, channels: int = 3, limit: int = 2048, seed: int = 0, workers: int = 0
) -> Preprocess:
    """Fit the pre-processing of `kind` to a training split of image files, as `framing` cuts them for testing.

    Exact over the pixels of the split when it has at most `limit` images; otherwise over `limit` of them, drawn by `seed`. The
    drawn images' mean then differs from the split's by about the standard deviation of an image's mean / sqrt(limit): with .15 of
    the range and 2048 images .003. `none` decodes nothing. RunError naming a file that cannot be decoded."""
    if kind == "none":
        return Preprocess(kind, (0.0,) * channels, (1.0,) * channels)
    chosen = torch.randperm(len(train), generator=generator(seed, "statistics"))[:limit].sort().values
    pool = DecodingPool(_decoder(train, framing, channels, seed), workers, keep=False)
    requests = (_request(train, part, None) for part in chosen.split(FIT_BATCH))
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for images in pool.decoded(requests):
        counts += channel_histogram(images)
    return preprocess_from_histogram(kind, counts)


def _decoder(source: Files, framing: Framing, channels: int, seed: int) -> Decoder:
    cached = source.cached
    cache = None if cached is None else CachedReader(cached.path, cached.kind, channels, source.decoding)
    return Decoder(framing, channels, seed, source.decoding, cache)


def _request(source: Files, part: Tensor, epoch: int | None) -> DecodeRequest:
    indices = part.tolist()
    rows = None if source.cached is None else source.cached.rows[part].tolist()
    return DecodeRequest([str(source.paths[index]) for index in indices], indices, epoch, rows)
