"""The probe: a fixed set of training images, observed repeatedly so that steps and runs can be compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from train.data.contracts import Dataset, Source, Splits
from train.data.preprocess import Preprocess
from train.data.readers import ReaderSettings, open_readers
from train.parts.augment import Pipeline
from train.rng import generator

SEED = 0


def probe_images(
    dataset: Dataset, train: Source, pipeline: Pipeline, preprocess: Preprocess, settings: ReaderSettings, size: int
) -> Tensor:
    """Return `size` images of the training split (all, if it has fewer), [n, C, H, W] on the device.

    They are not augmented, and pre-processed with `preprocess`, the statistics of the whole split. The draw has its own seed:
    runs on the same split use the same images, whatever their seeds. RunError for a broken image file.
    """
    indices = torch.randperm(len(train), generator=generator(SEED, "probe"))[:size]
    return plain_images(dataset, train.take(indices), pipeline, preprocess, settings)


def plain_images(
    dataset: Dataset, source: Source, pipeline: Pipeline, preprocess: Preprocess, settings: ReaderSettings
) -> Tensor:
    """Return the images of `source` as they are evaluated: not augmented, pre-processed with `preprocess`, on the device.

    RunError for a broken image file.
    """
    plain = replace(settings, preprocess="none", batching=replace(settings.batching, batch_size=len(source)))
    readers = open_readers(dataset, Splits(train=source, test=source), pipeline, plain)
    try:
        reader = readers.test
        reader.preprocess = preprocess
        return next(iter(reader.eval_batches())).images
    finally:
        readers.close()
