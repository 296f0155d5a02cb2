"""Learning-rate schedules: each choice returns `schedule(step, total) -> factor` on the optimizer's learning rate.

`step` counts updates from 0 to total - 1, and `total` is what will really run; everything else is a fraction of the run, so
that a longer run stretches the schedule. The factor is above 0 at step 0.

`warmup` is the share of the run in which the factor rises in equal steps from near zero: (step + 1) / warm_steps, with
warm_steps = round(warmup * total). It reaches 1 at the last warm step, where the schedule proper begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Interval

from train.parts.contracts import Schedule

Warmup = Annotated[float, Interval(ge=0, lt=1)]
Inner = Annotated[float, Interval(gt=0, lt=1)]
Share = Annotated[float, Interval(ge=0, le=1)]


def constant(warmup: Warmup = 0.0) -> Schedule:
    """Keep the learning rate constant after the warm-up."""
    return lambda step, total: _warm(warmup, step, total)


def step(
    milestones: Sequence[Inner] = (0.5, 0.75), factor: Annotated[float, Interval(gt=0, le=1)] = 0.1, warmup: Warmup = 0.0
) -> Schedule:
    """Multiply the rate by `factor` at each of `milestones`, from the first step that has that fraction of the run behind it."""

    def schedule(step: int, total: int) -> float:
        # The margin keeps 0.07 * 100 = 7.000000000000001 at step 7.
        passed = sum(step >= milestone * total - 1e-9 * total for milestone in milestones)
        return _warm(warmup, step, total) * factor**passed

    return schedule


def cosine(final: Share = 0.0, warmup: Warmup = 0.05) -> Schedule:
    """Follow half a cosine from 1 down to `final`, reached at the last step (Loshchilov & Hutter 2017, without restarts)."""

    def schedule(step: int, total: int) -> float:
        begin = max(_warm_steps(warmup, total) - 1, 0)
        if step < begin:
            return _warm(warmup, step, total)
        return _glide(1.0, final, step - begin, total - 1 - begin)

    return schedule


def one_cycle(peak: Inner = 0.3, start: Annotated[float, Interval(gt=0, le=1)] = 0.04, final: Share = 0.0) -> Schedule:
    """Rise from `start` to 1 at the fraction `peak` of the run, then fall to `final` at the last step (Smith & Topin 2018).

    Both ways are half cosines, as in torch's OneCycleLR; the way up is the warm-up.
    """

    def schedule(step: int, total: int) -> float:
        top = max(peak * total - 1, 0.0)
        if step < top:
            return _glide(start, 1.0, step, top)
        return _glide(1.0, final, step - top, total - 1 - top)

    return schedule


def triangular(peak: Inner = 0.23, start: Annotated[float, Interval(gt=0, le=1)] = 0.2, final: Share = 0.07) -> Schedule:
    """Rise in a straight line from `start` to 1 at the fraction `peak` of the run, then fall in one to `final` (Smith 2017).

    Smith, "Cyclical learning rates for training neural networks", with one triangle and ends of their own; the defaults are those
    of Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU".
    """

    def schedule(step: int, total: int) -> float:
        top = max(peak * total - 1, 0.0)
        if step < top:
            return start + (1.0 - start) * step / top
        rest = total - 1 - top
        return 1.0 + (final - 1.0) * (step - top) / rest if rest > 0 else 1.0

    return schedule


def _warm_steps(warmup: float, total: int) -> int:
    return round(warmup * total)


def _warm(warmup: float, step: int, total: int) -> float:
    return min(1.0, (step + 1) / max(_warm_steps(warmup, total), 1))


def _glide(first: float, last: float, done: float, length: float) -> float:
    """Return half a cosine from `first` (done = 0) to `last` (done = length); `first` when length is 0."""
    progress = done / length if length > 0 else 0.0
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
