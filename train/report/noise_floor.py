"""The noise floor of a test split: how well its images let an accuracy be known, and two networks be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.report.classes import TAG
from train.report.metric import Metric, as_float
from train.report.outcome import class_counts
from train.store.run import Run

FEWEST = 6
"""Images on which two networks must differ, all in favour of one, for p < .05 in the sign test: 2 / 2 ** 6 = .03."""
Z = 1.959964


@dataclass(frozen=True)
class NoiseFloor:
    """What the images of a split can show, in fractions.

    `mean`: half the width of the 95 % interval of an accuracy on all such images; `difference`: the smallest difference of two
    trained networks on the same images that can be told from chance.
    """

    images: int
    mean: float
    difference: float


def noise_floor(runs: Sequence[Run], metric: Metric, accuracy: float, content: Mapping[str, Any]) -> NoiseFloor | None:
    """Return the floor of an accuracy, the mean of `runs`; None for other metrics. `content`: that of data.json.

    Images are drawn within their classes where runs record what they got right of each, else from all of them.
    """
    images = next((count for run in runs if (count := metric.examples(run)) is not None), None)
    if not metric.is_share or images is None or not math.isfinite(accuracy):
        return None
    by_class = _variance_within_classes(runs, content) if metric.tag == TAG else None
    variance = images * accuracy * (1 - accuracy) if by_class is None else by_class
    return NoiseFloor(images, Z * math.sqrt(variance) / images, FEWEST / images)


def _variance_within_classes(runs: Sequence[Run], content: Mapping[str, Any]) -> float | None:
    """Return the variance of the number of images that are right; None where a run did not record it by class."""
    counts = class_counts(content, "test")
    right = [run.summary.get("test_correct_by_class") for run in runs]
    if not counts or not all(isinstance(found, list) and len(found) == len(counts) for found in right):
        return None
    means = [sum(map(as_float, column)) / len(column) for column in zip(*right, strict=True)]  # type: ignore[arg-type]
    return sum(mean * (1 - mean / count) for mean, count in zip(means, counts, strict=True) if count)
