"""Differences to the baseline at several budgets: whether a verdict holds, or the order of two arms flips.

The intervals of all arms at all budgets, and of the change of each difference from the smallest budget to the largest, are one
family, with Sidak's level (`train.report.statistics.contrasts.sidak`). An order flips where the interval of one budget is above 0
and that of another below, which so happens without a flip in at most 5 % of sweeps, whatever the number of budgets. (Such an
interaction is called qualitative: Gail & Simon 1985, "Testing for qualitative interactions between treatment effects and patient
subsets", Biometrics 41.) Runs of other budgets are other runs, also with the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from train.report.contracts import Effect, Sample
from train.report.statistics.differences import difference_of, effect_of, problem

Pattern: TypeAlias = Literal["flips", "holds", "equivalent", "changes", "in part", "undecided", "not comparable"]


@dataclass(frozen=True)
class BudgetCurve:
    """An arm against the baseline. `points`: the difference at each budget, in their order, None where it is not comparable, of
    which `notes` says why; `change`: the last difference minus the first."""

    arm: str
    points: tuple[Effect | None, ...]
    notes: tuple[str, ...]
    change: Effect | None

    def pattern(self, smallest_effect: float | None) -> Pattern:
        """Return what becomes of the difference. `smallest_effect`: differences within it do not matter; None: all do."""
        known = [point for point in self.points if point is not None and point.low is not None]
        if len(known) < 2:
            return "not comparable"
        signs = [0 if not point.excludes_zero else 1 if point.difference > 0 else -1 for point in known]
        if {1, -1} <= set(signs):
            return "flips"
        complete = len(known) == len(self.points)
        if complete and abs(sum(signs)) == len(signs):
            return "holds"
        if complete and smallest_effect and all((point.bound or 0.0) <= smallest_effect for point in known):
            return "equivalent"
        if self.change is not None and self.change.excludes_zero:
            return "changes"
        return "in part" if any(signs) else "undecided"


def budget_curves(cells: Mapping[str, Sequence[Sample]], confidence: float = 0.95) -> tuple[BudgetCurve, ...]:
    """Compare every arm with the first at each budget. `cells`: arm -> its samples, in the order of the budgets.

    Points at which runs of either side learned nothing, diverged or failed, or of which a side has fewer than two runs, are not
    compared: what the others have in common may be that they trained.
    """
    (_, baseline), *others = cells.items()
    pairs = {arm: list(zip(baseline, samples, strict=True)) for arm, samples in others}
    notes = {arm: tuple(problem(*pair) for pair in found) for arm, found in pairs.items()}
    points = {
        (arm, place): difference_of([pair])
        for arm, found in pairs.items()
        for place, pair in enumerate(found)
        if not notes[arm][place]
    }
    changes = {
        arm: difference_of([found[-1], found[0]])
        for arm, found in pairs.items()
        if len(found) > 1 and not (notes[arm][0] or notes[arm][-1])
    }
    count = sum(difference.has_error for difference in (*points.values(), *changes.values()))
    return tuple(
        BudgetCurve(
            arm,
            tuple(effect_of(points.get((arm, place)), count, confidence) for place in range(len(found))),
            notes[arm],
            effect_of(changes.get(arm), count, confidence),
        )
        for arm, found in pairs.items()
    )
