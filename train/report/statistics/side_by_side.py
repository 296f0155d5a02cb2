"""The same change within two recipes, and whether what it does depends on the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from train.report.contracts import Effect, Sample
from train.report.statistics.differences import difference_of, effect_of, problem

Pair: TypeAlias = tuple[Sample, Sample]
"""The arm without a change, and the one with it."""
Reading: TypeAlias = Literal[
    "higher in both", "lower in both", "flips", "depends on the rest", "clear in A", "clear in B", "open", ""
]


@dataclass(frozen=True)
class SideBySide:
    """A change in A and in B: None where it cannot be compared, of which `notes` says why.

    `dependence`: that in A minus that in B.
    """

    first: Effect | None
    second: Effect | None
    dependence: Effect | None
    notes: tuple[str, str]

    @property
    def reading(self) -> Reading:
        """What the intervals say. That one of two excludes 0 does not show that they differ: `dependence` does."""
        if self.first is None or self.second is None:
            return ""
        signs = [(1 if effect.difference > 0 else -1) * effect.excludes_zero for effect in (self.first, self.second)]
        if signs[0] * signs[1]:
            return "flips" if signs[0] != signs[1] else "higher in both" if signs[0] > 0 else "lower in both"
        if self.dependence is not None and self.dependence.excludes_zero:
            return "depends on the rest"
        return "clear in A" if signs[0] else "clear in B" if signs[1] else "open"


def side_by_side(first: Mapping[str, Pair], second: Mapping[str, Pair], confidence: float = 0.95) -> dict[str, SideBySide]:
    """Compare changes within two recipes. `first`, `second`: change -> its arms; the order is that of `first`, then of `second`.

    All intervals are one family with Sidak's level.
    """
    names = list(dict.fromkeys([*first, *second]))
    pairs = [{name: pair for name, pair in side.items() if not problem(*pair)} for side in (first, second)]
    alone = [{name: difference_of([pair]) for name, pair in side.items()} for side in pairs]
    both = {name: difference_of([pairs[0][name], pairs[1][name]]) for name in names if all(name in side for side in pairs)}
    count = sum(found.has_error for side in (*alone, both) for found in side.values())
    return {
        name: SideBySide(
            *(effect_of(side.get(name), count, confidence) for side in (*alone, both)),
            notes=(_note(first, name), _note(second, name)),
        )
        for name in names
    }


def _note(side: Mapping[str, Pair], name: str) -> str:
    return problem(*side[name]) if name in side else "no such arms"
