"""What the arms cost each class: differences to the baseline in the accuracy of every class of the test split.

The values are runs, as everywhere in a report: the spread is that between seeds. The intervals of all classes and arms are one
family of their own, with Sidak's level (`train.report.statistics.contrasts.sidak`), which holds for any correlation of classes.

In simulated sweeps in which nothing differs (three arms; ten classes of 20 to 1000 images, accuracy 0.8 or 0.99; 3, 5 or 20 seeds
with and without a spread of their own; 150 sweeps each), some interval excludes zero in 0 % to 7 % of the sweeps, 3 % on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from train.report.contracts import Effect
from train.report.statistics.contrasts import Contrast, SampleMoments, contrast, moments, sidak
from train.store.inputs import read_data
from train.store.run import Run

TAG = "accuracy/test"
"""The metric of a page that shows classes: with another, the test split is not to be looked at."""
UNKNOWN = "no interval: the spread between seeds is unknown"


@dataclass(frozen=True)
class ClassEffect(Effect):
    """The accuracy of one class in an arm minus that in the baseline. `accuracy`, `baseline`: both means."""

    name: str = ""
    arm: str = ""
    accuracy: float = 0.0
    baseline: float = 0.0


@dataclass(frozen=True)
class ClassEffects:
    """The differences of all classes and arms, arm by arm; none where runs did not record what they got right of each class.

    `names`: the classes in the order of their labels; `arms`: ids of the arms that are compared.
    """

    names: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    effects: tuple[ClassEffect, ...] = ()

    @cached_property
    def intervals(self) -> int:
        """The number of differences that have an interval."""
        return sum(effect.low is not None for effect in self.effects)

    @cached_property
    def excluding_zero(self) -> int:
        """The number of intervals that exclude 0."""
        return sum(effect.excludes_zero for effect in self.effects)

    def clearest(self, most: int) -> tuple[ClassEffect, ...]:
        """Return at most `most` differences: all in order if they fit, else those with the smallest adjusted p first."""
        if len(self.effects) <= most:
            return self.effects
        return tuple(sorted(self.effects, key=_clarity)[:most])


def _clarity(effect: ClassEffect) -> tuple[float, float]:
    return 2.0 if effect.p_adjusted is None else effect.p_adjusted, -abs(effect.difference)


def class_effects(arms: Sequence[tuple[str, Sequence[Run]]], confidence: float = 0.95) -> ClassEffects:
    """Compare every arm with the first, class by class. `arms`: ids, and the runs that means are over.

    An arm whose runs have other classes than the baseline's is left out.
    """
    recorded: dict[str, list[tuple[str, int]]] = {}
    values = {arm: [found for run in runs if (found := _accuracies(run, recorded))] for arm, runs in arms}
    baseline = next(iter(values.values()), [])
    names = tuple(baseline[0]) if baseline else ()
    compared = {
        arm: runs for arm, runs in list(values.items())[1:] if runs and all(tuple(run) == names for run in (*baseline, *runs))
    }
    if not compared:
        return ClassEffects()
    pairs = [(arm, name, *_moments(name, baseline, runs)) for arm, runs in compared.items() for name in names]
    differences = [_difference(control, treatment) for _, _, control, treatment in pairs]
    count = sum(difference.has_error for difference in differences)
    effects = [
        ClassEffect(
            difference=difference.estimate,
            note="" if difference.has_error else UNKNOWN,
            name=name,
            arm=arm,
            accuracy=treatment.mean,
            baseline=control.mean,
            **(sidak(difference, count, confidence) if difference.has_error else {}),
        )
        for (arm, name, control, treatment), difference in zip(pairs, differences, strict=True)
    ]
    return ClassEffects(names, tuple(compared), tuple(effects))


def _moments(name: str, *groups: Sequence[Mapping[str, float]]) -> tuple[SampleMoments, SampleMoments]:
    control, treatment = (moments([run[name] for run in group]) for group in groups)
    return control, treatment


def _difference(control: SampleMoments, treatment: SampleMoments) -> Contrast:
    """Return the contrast of two groups, without an error if one of them has a single run."""
    difference = contrast([-1.0, 1.0], [control, treatment])
    return difference if min(control.n, treatment.n) > 1 else Contrast(difference.estimate, 0.0, 0.0)


def _accuracies(run: Run, recorded: dict[str, list[tuple[str, int]]]) -> dict[str, float]:
    """Return class -> accuracy on its test images, without classes that have none; empty if the run did not record it.

    `recorded`: id of data -> class and number of its images, which runs on the same data share.
    """
    right = run.summary.get("test_correct_by_class")
    if not right or not run.data:
        return {}
    if run.data not in recorded:
        content = read_data(run.folder)
        counts = (content.get("splits") or {}).get("test", {}).get("counts", [])
        recorded[run.data] = list(zip(content.get("classes") or [], counts, strict=False))
    images = recorded[run.data]
    if len(right) != len(images) or any(number > count for number, (_, count) in zip(right, images, strict=True)):
        return {}
    return {name: number / count for number, (name, count) in zip(right, images, strict=True) if count}
