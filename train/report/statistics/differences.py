"""Differences of means, and differences of these, for families that are not all arms against one baseline."""

from __future__ import annotations

from collections.abc import Sequence

from train.report.contracts import Effect, Sample
from train.report.statistics.contrasts import Contrast, contrast, moments, sidak


def problem(control: Sample, treatment: Sample) -> str:
    """Return why two arms cannot be compared; empty if they can.

    Runs that learned nothing, diverged or failed are in no mean: what the others have in common may be that they trained.
    """
    for sample in (control, treatment):
        if lost := sample.diverged + sample.untrained + sample.failed:
            return f"{lost} of {lost + len(sample.values)} runs of {sample.arm} did not train"
    fewest = min((control, treatment), key=lambda sample: len(sample.values))
    return "" if len(fewest.values) > 1 else f"fewer than two runs of {fewest.arm}"


def difference_of(pairs: Sequence[tuple[Sample, Sample]]) -> Contrast:
    """Return treatment minus control; of two pairs, the first difference minus the second."""
    weights = [-1.0, 1.0, 1.0, -1.0][: 2 * len(pairs)]
    return contrast(weights, [moments(sample.values) for pair in pairs for sample in pair])


def effect_of(difference: Contrast | None, count: int, confidence: float) -> Effect | None:
    """Return a difference with its interval, one of `count` that hold jointly. None stays None."""
    if difference is None:
        return None
    return Effect(difference.estimate, **(sidak(difference, count, confidence) if difference.has_error else {}))
