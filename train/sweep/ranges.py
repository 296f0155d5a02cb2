"""The levels that tuned keys are tried at: those that are named, and further ones where the best lies at the edge of a range."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from train.report.tuning import TunedLevel
from train.sweep.design import Factor, Levels

MOST_WHOLE = 1e6
"""Larger numbers are written as 1e+06."""


@dataclass(frozen=True)
class Ladder:
    """The levels of one tuned factor, a number, from the smallest to the largest, those beyond the named ones included."""

    rows: tuple[Levels, ...]

    def beyond(self, choice: TunedLevel) -> Iterator[Levels]:
        """Yield the level next to a chosen one at the edge of those that were tried, in place of the factor's own.

        Where every run diverged, it is the next smaller one, since the larger a rate or a scale, the sooner a run diverges.
        """
        tried = [self._position(level.setting) for level in choice.levels if level.was_tried]
        chosen, setting = self._position(choice.chosen.setting), choice.chosen.setting
        diverged = choice.lost_all and not any(level.failed for level in choice.levels)
        if chosen is None or None in tried or not (choice.was_measured or diverged):
            return
        positions = [position for position in tried if position is not None]
        if chosen == min(positions) > 0:
            yield {**setting, **self.rows[chosen - 1]}
        if choice.was_measured and chosen == max(positions) < len(self.rows) - 1:
            yield {**setting, **self.rows[chosen + 1]}

    def _position(self, setting: Levels) -> int | None:
        return next((i for i, row in enumerate(self.rows) if row.items() <= setting.items()), None)


def ladder_of(factor: Factor, steps: int) -> Ladder:
    """Return the ladder with up to `steps` levels beyond either end, each in the ratio of the two next to it.

    Levels that are no positive numbers, or fewer than two of them, are not extended; those of words have no ladder.
    """
    named = {axis: [_number(level[axis]) for level in factor.levels] for axis in factor.axes}
    if any(math.isnan(number) for numbers in named.values() for number in numbers):
        return Ladder(())
    distinct = {tuple(float(level[axis]) for axis in factor.axes): level for level in reversed(factor.levels)}
    rows = [distinct[numbers] for numbers in sorted(distinct)]
    below = _steps(rows[1:2] + rows[:1], factor.axes, steps) if len(rows) > 1 else []
    above = _steps(rows[-2:], factor.axes, steps) if len(rows) > 1 else []
    return Ladder((*reversed(below), *rows, *above))


def _steps(ends: Sequence[Levels], axes: Collection[str], steps: int) -> list[Levels]:
    """Return the levels that go on from the second of two, in their ratio. None where that is no step."""
    inner, outer = ({axis: float(level[axis]) for axis in axes} for level in ends)
    if any(inner[axis] <= 0 or outer[axis] <= 0 or inner[axis] == outer[axis] for axis in axes):
        return []
    found: list[Levels] = []
    for step in range(1, steps + 1):
        numbers = {axis: outer[axis] * (outer[axis] / inner[axis]) ** step for axis in axes}
        found.append({axis: _text(number) for axis, number in numbers.items()})
    return found


def _text(number: float) -> str:
    """Return a level as it would be typed. A whole number is one, since a setting may ask for it."""
    return str(int(number)) if number.is_integer() and number < MOST_WHOLE else f"{number:.3g}"


def _number(level: str) -> float:
    try:
        number = float(level)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def extended(factors: Sequence[Factor], steps: int) -> tuple[tuple[Ladder, ...], list[Factor]]:
    """Return the ladders of the tuned factors, and the factors with all their levels."""
    ladders = [ladder_of(factor, steps) for factor in factors]
    longer = [Factor(f.axes, ladder.rows or f.levels) for f, ladder in zip(factors, ladders, strict=True)]
    return tuple(ladder for ladder in ladders if ladder.rows), longer


def next_settings(choice: TunedLevel, ladders: Sequence[Ladder]) -> list[Mapping[str, str]]:
    """Return the settings to try next, one for each factor whose chosen level lies at an edge; empty where none does."""
    return [setting for ladder in ladders for setting in ladder.beyond(choice)]
