"""The readers of a run's splits, with the pre-processing fitted on the training split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from train.data.array_reader import ArrayReader
from train.data.batches import Batching
from train.data.contracts import Arrays, Batch, Dataset, Framed, Source, Splits
from train.data.folder_reader import FolderReader, fit_files
from train.data.preprocess import Kind, Preprocess, fit_pixels
from train.parts.augment import Pipeline

EVALUATION_FACTOR = 4
"""The size of an evaluation batch, as a multiple of the training batch: without gradients it needs a fraction of the memory."""


@dataclass(frozen=True)
class Readers:
    """The readers of a run, one per split; `val` is None without a validation split."""

    train: ArrayReader | FolderReader
    val: ArrayReader | FolderReader | None
    test: ArrayReader | FolderReader
    preprocess: Preprocess

    @cached_property
    def first_batch(self) -> Batch:
        """The batch of epoch 0 and step 0. Cached, because starting to read files costs seconds."""
        return next(self.train.epoch(0))

    def close(self) -> None:
        """End the worker processes, if there are any."""
        for reader in (self.train, self.val, self.test):
            if isinstance(reader, FolderReader):
                reader.close()


@dataclass(frozen=True)
class ReaderSettings:
    """Settings of every reader, whatever the kind of data."""

    preprocess: Kind
    workers: int
    batching: Batching


def open_readers(dataset: Dataset, splits: Splits, pipeline: Pipeline, settings: ReaderSettings) -> Readers:
    """Fit the pre-processing and place the images. RunError for an image file that turns out to be broken."""
    preprocess = fit_preprocess(dataset, splits.train, pipeline, settings)

    def open_split(source: Source, batch_size: int) -> ArrayReader | FolderReader:
        batching = replace(settings.batching, batch_size=batch_size)
        if isinstance(source, Arrays):
            return ArrayReader(source, pipeline, preprocess, batching)
        assert isinstance(dataset, Framed)
        channels, workers = dataset.shape[0], settings.workers
        return FolderReader(source, pipeline, preprocess, batching, framing=dataset.framing, channels=channels, workers=workers)

    small = settings.batching.batch_size
    large = small * EVALUATION_FACTOR
    val = None if splits.val is None else open_split(splits.val, large)
    return Readers(open_split(splits.train, small), val, open_split(splits.test, large), preprocess)


def fit_preprocess(dataset: Dataset, train: Source, pipeline: Pipeline, settings: ReaderSettings) -> Preprocess:
    if isinstance(train, Arrays):
        return fit_pixels(settings.preprocess, train)
    assert isinstance(dataset, Framed)
    framing = pipeline.framing or dataset.framing
    return fit_files(settings.preprocess, train, framing, channels=dataset.shape[0], workers=settings.workers)
