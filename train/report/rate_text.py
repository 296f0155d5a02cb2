"""Sentences on how many runs of two sides trained or diverged, and whether these rates differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from train.report import sentence_text
from train.report.contracts import Rate, Sample
from train.report.statistics.rates import divergence, equal_rates_p, training
from train.report.statistics.trimming import surplus

Side = tuple[Sample, ...]
"""All arms of a level, or of its baseline."""


def rates(measure: Callable[[Side], Rate], sides: Sequence[Side], names: Sequence[str]) -> str:
    """Return `4 of 5 runs (80 %, 95 % CI 38 to 96) with norm=none and 5 of 5 runs (...) with baseline`."""
    return " and ".join(f"{sentence_text.rate(measure(side))} with {name}" for side, name in zip(sides, names, strict=True))


def left_out(pair: tuple[Sample, Sample], names: Sequence[str]) -> str:
    """Return which runs were left out in turn to see whether the verdict stays; empty if none had to be."""
    for name, (sample, other) in zip(names, (pair, pair[::-1]), strict=True):
        if count := surplus(sample, other):
            return f"; leaving out the lowest or the highest {count} of {name} does not change the verdict"
    return ""


def compared_rates(
    pairs: Sequence[tuple[Sample, Sample]], names: tuple[str, str], family_size: int, confidence: float, *, of_training: bool
) -> str:
    """State whether one side trains or diverges more often, by an exact test with Bonferroni's correction for all levels.

    Empty where the rates are equal. `pairs`: arms that differ in this factor alone; `of_training`: which of the rates.
    """
    measure, what, verb = (
        (training, "rates of training", "trains") if of_training else (divergence, "divergence rates", "diverges")
    )
    measured = [(measure((treatment,)), measure((control,))) for treatment, control in pairs]
    excess = sum(a.count - (a.count + b.count) * a.total / max(1, a.total + b.total) for a, b in measured)
    if abs(excess) < 1e-9:
        return ""
    p = min(1.0, family_size * equal_rates_p(measured))
    within = " within the combinations of the other factors" if len(pairs) > 1 else ""
    adjusted = f", adjusted for {family_size} comparisons" if family_size > 1 else ""
    test = f"exact test{within}, p = {p:.2g}{adjusted}"
    if p >= 1 - confidence:
        return f" The {what} do not differ significantly ({test})."
    more, less = names if excess > 0 else names[::-1]  # the sums over all pairs may have the other sign
    return f" The {what} differ significantly: {more} {verb} more often than {less} ({test})."
