"""What the runs that learned nothing on one side may hide in a difference between the runs that trained.

Lee (2009, "Training, wages, and sample selection: estimating sharp bounds on treatment effects", Review of Economic Studies 76):
where more runs trained on one side, those of them that would not have trained on the other are unknown; the difference lies
between that without the lowest and that without the highest runs of this side, as many as the difference in rates tells. This
takes for granted that a run that trains on the side with fewer would have trained on the other. How often claims err that hold
with all three sets of runs is simulated in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from train.report.contracts import Effect, Sample
from train.report.statistics.contrasts import contrast, moments, sidak
from train.report.statistics.rates import training


def surplus(sample: Sample, other: Sample) -> int:
    """Return how many of the runs that trained are more than the rate of the other arm explains, rounded up; 0 if none."""
    own, others = training([sample]), training([other])
    if not (own.total and others.total and own.count * others.total > others.count * own.total):
        return 0
    return ceil(own.count - others.count * own.total / others.total - 1e-9)


def trimmed_effects(treatment: Sample, control: Sample, count: int, confidence: float = 0.95) -> tuple[Effect, ...]:
    """Return the differences without the lowest and without the highest surplus runs; none where the rates are equal.

    Each has one of `count` simultaneous intervals by Welch; none where fewer than two runs, or no spread, remain.
    """
    counts = surplus(treatment, control), surplus(control, treatment)
    if counts == (0, 0):
        return ()
    kept = [_ends(sample.values, more) for sample, more in zip((treatment, control), counts, strict=True)]
    return tuple(_effect(left, right, count, confidence) for left, right in zip(*kept, strict=True))


def _ends(values: Sequence[float], surplus: int) -> tuple[list[float], list[float]]:
    """Return the values without the lowest, and without the highest."""
    ordered = sorted(values)
    return ordered[surplus:], ordered[: len(ordered) - surplus]


def _effect(treatment: Sequence[float], control: Sequence[float], count: int, confidence: float) -> Effect:
    if not (treatment and control):
        return Effect(float("nan"))
    difference = contrast([1.0, -1.0], [moments(treatment), moments(control)])
    if min(len(treatment), len(control)) < 2 or not difference.has_error:
        return Effect(difference.estimate)
    return Effect(difference.estimate, **sidak(difference, count, confidence))
