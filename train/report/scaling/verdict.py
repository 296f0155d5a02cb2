"""Verdicts on exponents: does the statistic of a layer keep its size as the network grows?

An exponent within `MARGIN` of the allowed ones does not matter. A statistic keeps its size if the whole interval is within it,
grows or fades if the whole is beyond, and is undecided else. Allowed is 0 for the std of outputs, and for that of gradients
relative to the last hidden layer: what the head divides all of them by is no loss on the way back. The relative update of a
weight may fall with the width down to exponent -1/2: an update is of low rank, so that this keeps the change of the outputs
constant (Yang, Simon & Bernstein 2023, "A spectral condition for feature learning", section 2); with the depth down to -1, where
each of n layers makes one nth of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from train.report.scaling.measure import QUANTITIES, Axis, Group, Quantity
from train.report.scaling.slopes import Exponent, Slope

MARGIN = 0.25
"""Exponents of theory are multiples of 1/2; nearer to 0 than that are effects of a finite size. From 16 to 256 a factor of 2."""

Verdict: TypeAlias = Literal["keeps", "grows", "fades", "undecided", "lost", "not judged"]


@dataclass(frozen=True)
class Judged:
    """A slope with its verdict; `excess`: by how much the exponent is beyond what is allowed."""

    slope: Slope
    verdict: Verdict
    excess: float = 0.0

    @property
    def is_against(self) -> bool:
        return self.verdict in ("grows", "fades", "lost")


@dataclass(frozen=True)
class JudgedGroup:
    """The verdicts on all layers of a group."""

    group: Group
    judged: tuple[Judged, ...]

    def at(self, quantity: Quantity, step: int) -> list[Judged]:
        """Return the verdicts on one statistic at one step, in the order of the layers."""
        return [item for item in self.judged if item.slope.series.quantity == quantity and item.slope.series.step == step]

    @property
    def aspects(self) -> list[tuple[Quantity, int]]:
        """Return every statistic at every step that has verdicts."""
        return [(quantity, step) for step in self.group.steps for quantity in QUANTITIES if self.at(quantity, step)]

    @property
    def worst(self) -> Judged | None:
        """Return the layer that is most against; None where none is. Lost updates come last: they follow from lost gradients."""
        against = [item for item in self.judged if item.is_against]
        lost_updates = [item for item in against if item.verdict == "lost" and item.slope.series.quantity == "update"]
        rest = [item for item in against if item not in lost_updates]
        return max(rest or lost_updates, key=lambda item: (item.verdict == "lost", item.excess), default=None)

    @property
    def undecided(self) -> list[Judged]:
        return [item for item in self.judged if item.verdict == "undecided"]


def judge_group(group: Group, slopes: Sequence[Slope], axis: Axis) -> JudgedGroup:
    """Return the verdicts on the slopes of a group."""
    return JudgedGroup(group, tuple(judge(slope, axis) for slope in slopes))


def judge(slope: Slope, axis: Axis) -> Judged:
    """Return the verdict on a slope."""
    series = slope.series
    if series.lost:
        is_still = series.quantity == "update" and series.lost == series.runs  # a schedule that begins at 0
        return Judged(slope, "not judged" if is_still else "lost", 0.0 if is_still else float("inf"))
    is_reference = series.quantity == "gradient" and not series.relative  # the last hidden layer; and the logits
    if is_reference or slope.judged is None:
        return Judged(slope, "not judged")
    least = axis.least_update if series.quantity == "update" else 0.0
    return Judged(slope, *_compared(slope.judged, least, 0.0))


def _compared(exponent: Exponent, least: float, most: float) -> tuple[Verdict, float]:
    excess = max(exponent.estimate - most, least - exponent.estimate, 0.0)
    if exponent.low is None or exponent.high is None:
        return "undecided", excess
    if exponent.low >= least - MARGIN and exponent.high <= most + MARGIN:
        return "keeps", excess
    if exponent.low > most + MARGIN:
        return "grows", excess
    return ("fades", excess) if exponent.high < least - MARGIN else ("undecided", excess)
