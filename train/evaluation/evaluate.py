"""Evaluate a run's weights as the run itself does: the same reader, precision, batch size and evaluation step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import TrainerSettings, check
from train.data.batches import Batching
from train.data.folder_reader import FolderReader
from train.data.preprocess import Preprocess
from train.data.readers import ReaderSettings, fit_preprocess, open_evaluation
from train.data.split import keep_fraction, split_validation
from train.errors import UsageError
from train.evaluation.ask import Asker
from train.evaluation.equality import Equality, compare_with_run
from train.evaluation.images import Images, Split, file_of, images_of, told
from train.evaluation.rebuild import Rebuilt, rebuild, recorded_preprocess, trusting
from train.evaluation.scores import Calibration, ClassScore, calibration, class_scores, confusion
from train.run.build import build_dataset
from train.run.device import Placement, choose_placement, configure_determinism
from train.run.outcome import explain_error
from train.run.resumed_job import changed, without_download
from train.run.runner import score_of
from train.run.step import Score
from train.sinks.run_text import wilson_interval
from train.store.run import Run

MOST_MISTAKES = 24
RECORDED = {"precision": ("float32", "bfloat16", "float16"), "memory_format": ("channels_last", "contiguous")}
"""Settings of the trainer that a run records as they were chosen, and what they may be."""


@dataclass(frozen=True)
class Request:
    """What to evaluate runs on.

    `overrides`: of `data` and `trainer`, in the place of values in a run's configuration; `data`: takes the place of its node
    `data`, None to leave it; `typed`: the overrides that made `data`; `trust`: packages whose functions a run's configuration may
    call.
    """

    split: Split = "test"
    overrides: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    typed: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """An image that is classified wrong.

    `index`: its place in the split; `file`: empty if it has none of its own; `probability`: of the predicted class;
    `true_probability`: of its own; `picture`: float32 [C, H, W], as the model saw it.
    """

    index: int
    file: str
    true: str
    predicted: str
    probability: float
    true_probability: float
    picture: NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """A run on one set of images. `confusion`: int64, classes x predicted classes; `notes`: what was left out of the images."""

    run: Run
    split: Split
    device: str
    precision: str
    batch_size: int
    score: Score
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    calibration: Calibration
    mistakes: tuple[Mistake, ...]
    equality: Equality
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run folder, which the user may have named `.`."""
        return self.run.folder.absolute().name

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, for the images alone."""
        return wilson_interval(self.score.accuracy, self.score.examples)


def evaluate_run(run: Run, request: Request) -> Evaluation:
    """Evaluate one run. UsageError for what cannot be evaluated; RunError where memory does not suffice or an image is broken."""
    rebuilt = rebuild(run, request.trust)
    content = without_download(changed(run, request.overrides), request.overrides)
    trainer = _trainer(run, content["trainer"], request.overrides)
    configure_determinism(trainer.deterministic)
    placement = choose_placement(trainer)
    with trusting(request.trust):
        images = images_of(
            rebuilt, content["data"] if request.data is None else request.data, request.split, request.typed or request.overrides
        )
        preprocess = recorded_preprocess(run) or _fitted(rebuilt, placement)
    if len(preprocess.mean) != images.dataset.shape[0]:
        raise UsageError(f"{run.folder}: its pre-processing is of {len(preprocess.mean)} channels, unlike these images.")
    try:
        with _threads_of(run):
            return _evaluated(rebuilt, images, preprocess, placement, trainer, request.split)
    except Exception as error:
        explained = explain_error(error, trainer, placement, rebuilt.parts.input_shape)
        if explained is None or explained is error:
            raise
        raise explained from error


def _evaluated(
    rebuilt: Rebuilt, images: Images, preprocess: Preprocess, placement: Placement, trainer: TrainerSettings, split: Split
) -> Evaluation:
    asker = Asker(placement.place(rebuilt.model()), placement, preprocess, MOST_MISTAKES)
    settings = _reader_settings(rebuilt, placement, trainer.batch_size, images.workers)
    reader = open_evaluation(images.dataset, images.source, rebuilt.parts.pipeline, preprocess, settings)
    try:
        batches = reader.eval_batches()
        if isinstance(reader, FolderReader):
            batches = told(batches, len(reader))
        score = score_of(asker.model, asker.evaluate, batches)
    finally:
        if isinstance(reader, FolderReader):
            reader.close()
    assert score is not None  # nothing interrupts it
    names, answers = rebuilt.parts.dataset.class_names, asker.answers
    return Evaluation(
        run=rebuilt.run,
        split=split,
        device=placement.describe(),
        precision=placement.precision,
        batch_size=trainer.batch_size,
        score=score,
        classes=class_scores(answers, names),
        confusion=confusion(answers, len(names)),
        calibration=calibration(answers),
        mistakes=tuple(_mistake(asker, images, names, index) for index in asker.pictures),
        equality=compare_with_run(rebuilt.run, split, score, placement, trainer.batch_size, images.differences),
        notes=images.notes,
    )


def _mistake(asker: Asker, images: Images, names: tuple[str, ...], index: int) -> Mistake:
    answers, file = asker.answers, file_of(images.source, index)
    return Mistake(
        index=index,
        file="" if file is None else str(file),
        true=names[answers.labels[index]],
        predicted=names[answers.predicted[index]],
        probability=float(answers.confidence[index]),
        true_probability=float(answers.true_probability[index]),
        picture=asker.pictures[index],
    )


def _trainer(run: Run, content: Mapping[str, Any], typed: tuple[str, ...]) -> TrainerSettings:
    """Return the settings with what the run chose for `auto`, so that another machine computes in the same precision."""
    keys = {override.partition("=")[0] for override in typed}
    chosen = {name: run.status.get(name) for name, allowed in RECORDED.items() if run.status.get(name) in allowed}
    kept = {name: value for name, value in chosen.items() if f"trainer.{name}" not in keys}
    return check(TrainerSettings, "trainer", dict(content) | kept)


def _fitted(rebuilt: Rebuilt, placement: Placement) -> Preprocess:
    """Return the pre-processing, fitted to the run's training images anew."""
    settings = rebuilt.settings
    dataset = build_dataset(settings)
    seed = settings.seeds.split
    splits = split_validation(dataset.load(), settings.data.val_fraction, seed)
    splits = keep_fraction(splits, settings.data.train_fraction, seed)
    readers = _reader_settings(rebuilt, placement, settings.trainer.batch_size, settings.data.workers)
    return fit_preprocess(dataset, splits.train, rebuilt.parts.pipeline, readers)


def _reader_settings(rebuilt: Rebuilt, placement: Placement, batch_size: int, workers: int) -> ReaderSettings:
    seeds = rebuilt.settings.seeds
    batching = Batching(batch_size, placement.device, seeds.order, seeds.augment, placement.memory_format)
    return ReaderSettings(rebuilt.settings.data.preprocess, workers, batching)


@contextmanager
def _threads_of(run: Run) -> Iterator[None]:
    """Compute with as many threads as the run did: the order of a sum depends on their number."""
    before, recorded = torch.get_num_threads(), run.status.get("threads") or 0
    if 0 < recorded <= (os.cpu_count() or 1):
        torch.set_num_threads(recorded)
    try:
        yield
    finally:
        torch.set_num_threads(before)
