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
        return next(self.train.epoch(0, whole=True))

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
    train = _open_split(dataset, splits.train, pipeline, preprocess, settings)
    val = None if splits.val is None else open_evaluation(dataset, splits.val, pipeline, preprocess, settings)
    return Readers(train, val, open_evaluation(dataset, splits.test, pipeline, preprocess, settings), preprocess)


def open_evaluation(
    dataset: Dataset, source: Source, pipeline: Pipeline, preprocess: Preprocess, settings: ReaderSettings
) -> ArrayReader | FolderReader:
    """Place the images of a split that is evaluated, in batches of `EVALUATION_FACTOR` times those of training."""
    batching = replace(settings.batching, batch_size=settings.batching.batch_size * EVALUATION_FACTOR)
    return _open_split(dataset, source, pipeline, preprocess, replace(settings, batching=batching))


def _open_split(
    dataset: Dataset, source: Source, pipeline: Pipeline, preprocess: Preprocess, settings: ReaderSettings
) -> ArrayReader | FolderReader:
    if isinstance(source, Arrays):
        return ArrayReader(source, pipeline, preprocess, settings.batching)
    assert isinstance(dataset, Framed)
    framing, channels = dataset.framing, dataset.shape[0]
    return FolderReader(
        source, pipeline, preprocess, settings.batching, framing=framing, channels=channels, workers=settings.workers
    )


def fit_preprocess(dataset: Dataset, train: Source, pipeline: Pipeline, settings: ReaderSettings) -> Preprocess:
    if isinstance(train, Arrays):
        return fit_pixels(settings.preprocess, train)
    assert isinstance(dataset, Framed)
    framing = pipeline.framing or dataset.framing
    return fit_files(settings.preprocess, train, framing, channels=dataset.shape[0], workers=settings.workers)
