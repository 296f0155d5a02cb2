"""What a run's answers on a set of images say: accuracy by class, confusions, calibration. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.sinks.run_text import wilson_interval

BINS = 15
"""Bins of the confidence, of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Answers:
    """What a model answers on N images: `labels` and `predicted`, int64 [N]; float64 [N]: `confidence`, the probability of the
    predicted class, and `true_probability`, that of the label."""

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    true_probability: NDArray[np.float64]

    def followed_by(self, other: Answers) -> Answers:
        """Return these answers and the others after them."""
        return Answers(
            labels=np.concatenate((self.labels, other.labels)),
            predicted=np.concatenate((self.predicted, other.predicted)),
            confidence=np.concatenate((self.confidence, other.confidence)),
            true_probability=np.concatenate((self.true_probability, other.true_probability)),
        )


NO_ANSWERS = Answers(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class ClassScore:
    """The accuracy on the images of one class, with Wilson's 95 % interval; NaN and (0, 1) without images.

    `predicted`: how many images, of any class, are taken for this one.
    """

    name: str
    images: int
    correct: int
    predicted: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.images if self.images else math.nan

    @property
    def interval(self) -> Interval:
        return wilson_interval(self.accuracy, self.images) if self.images else (0.0, 1.0)


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in (`low`, `high`]. `confidence`, `accuracy`: means; NaN without images."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How well confidence matches accuracy.

    `error`: the expected calibration error, the mean of |accuracy - confidence| over the bins, weighted by their images; NaN if a
    confidence is.
    """

    error: float
    bins: tuple[Bin, ...]


def class_scores(answers: Answers, names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Return the score of each class, in the order of the labels."""
    table = confusion(answers, len(names))
    images, predicted = table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
    return tuple(ClassScore(name, images[i], int(table[i, i]), predicted[i]) for i, name in enumerate(names))


def confusion(answers: Answers, classes: int) -> NDArray[np.int64]:
    """Return the numbers of images by their class (rows) and the predicted one (columns): int64 [classes, classes]."""
    cells = np.bincount(answers.labels * classes + answers.predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def calibration(answers: Answers, bins: int = BINS) -> Calibration:
    """Return the expected calibration error and what it is made of."""
    right = answers.labels == answers.predicted
    known = np.isfinite(answers.confidence)
    place = np.clip(np.ceil(np.where(known, answers.confidence, 0) * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        members = known & (place == index)
        count = int(members.sum())
        means = [float(values[members].mean()) if count else math.nan for values in (answers.confidence, right)]
        found.append(Bin(index / bins, (index + 1) / bins, count, *means))
    gaps = sum(item.images * abs(item.accuracy - item.confidence) for item in found if item.images)
    return Calibration(gaps / len(right) if known.all() and len(right) else math.nan, tuple(found))


def worst_mistakes(answers: Answers, most: int) -> list[int]:
    """Return the images that are classified wrong, those with the largest loss first: at most `most` places."""
    wrong = np.flatnonzero(answers.labels != answers.predicted)
    surprise = np.nan_to_num(-answers.true_probability[wrong], nan=0.0)  # NaN before all others
    return wrong[np.argsort(-surprise, kind="stable")][:most].tolist()
