"""The numbers of an evaluation, against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.evaluation.scores import Answers, calibration, class_scores, confusion, worst_mistakes

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def answers() -> Answers:
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 3, 200), draw.integers(0, 4, 200)
    return Answers(labels, predicted, draw.uniform(0.2, 1, 200), draw.uniform(0, 1, 200))


def test_confusion_counts_each_pair(answers: Answers) -> None:
    table = confusion(answers, 4)
    pairs = list(zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True))
    assert all(table[row, column] == pairs.count((row, column)) for row in range(4) for column in range(4))


def test_scores_of_classes(answers: Answers) -> None:
    scores = class_scores(answers, NAMES)
    assert [score.images for score in scores] == [int((answers.labels == i).sum()) for i in range(4)]
    assert [score.predicted for score in scores] == [int((answers.predicted == i).sum()) for i in range(4)]
    assert all(score.interval[0] < score.accuracy < score.interval[1] for score in scores[:3])
    assert math.isnan(scores[3].accuracy)
    assert scores[3].interval == (0.0, 1.0)


def test_calibration_is_the_weighted_gap_of_the_bins(answers: Answers) -> None:
    right = answers.labels == answers.predicted
    gap = 0.0
    for index in range(15):
        inside = [i for i, c in enumerate(answers.confidence) if index / 15 < c <= (index + 1) / 15]
        if inside:
            gap += len(inside) / 200 * abs(right[inside].mean() - answers.confidence[inside].mean())
    found = calibration(answers)
    assert found.error == pytest.approx(gap)
    assert sum(part.images for part in found.bins) == 200


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (1.0, 14), (1 / 15, 0), (0.5, 7)])
def test_ends_of_bins(confidence: float, place: int) -> None:
    found = calibration(Answers(np.zeros(1, int), np.zeros(1, int), np.array([confidence]), np.array([confidence])))
    assert [part.images for part in found.bins].index(1) == place


def test_calibration_of_nan_is_unknown() -> None:
    nan = np.array([math.nan, 0.5])
    found = calibration(Answers(np.zeros(2, int), np.zeros(2, int), nan, nan))
    assert math.isnan(found.error)
    assert sum(part.images for part in found.bins) == 1


def test_worst_mistakes_have_the_largest_loss() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 0, 1, 2])
    true = np.array([0.9, 0.3, math.nan, 0.01, 0.3, 0.4])
    assert worst_mistakes(Answers(labels, predicted, true, true), 10) == [2, 3, 1, 4]
    assert worst_mistakes(Answers(labels, predicted, true, true), 2) == [2, 3]
