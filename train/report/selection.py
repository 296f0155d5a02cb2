"""What a page shows of many: the extreme arms, and items spread evenly over the rest. The files beside the page have all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from train.report.arms import Arm

_Item = TypeVar("_Item")

MOST_OPEN_ROWS = 60
"""Of a table; the others are in closed details."""
MOST_DOTS = 50
"""Of the runs of an arm; of more, so many are shown, evenly from the lowest to the highest value."""


@dataclass(frozen=True)
class Shown(Generic[_Item]):
    """What a page shows of a list: the first `items`; `more`: how many others there are."""

    items: tuple[_Item, ...]
    more: int = 0

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def first_of(items: Iterable[_Item], most: int) -> Shown[_Item]:
    """Return the first `most` items, and count the others."""
    rest = iter(items)
    return Shown(tuple(islice(rest, most)), sum(1 for _ in rest))


def baseline_in_first(rows: Sequence[tuple[int, Arm]], most: int) -> list[tuple[int, Arm]]:
    """Return the numbered arms with the baseline as the last of the first `most`, if its place is below these."""
    place = next(index for index, (_, arm) in enumerate(rows) if arm.is_baseline)
    others = [row for row in rows if not row[1].is_baseline]
    return [*others[: (at := min(place, most - 1))], rows[place], *others[at:]]


def extremes(arms: Sequence[Arm], most: int) -> tuple[list[Arm], str]:
    """Return at most `most` arms (the baseline, the best and the worst, in order), and a sentence for the caption.

    The sentence is empty if all arms fit.
    """
    if len(arms) <= most:
        return list(arms), ""
    others = [arm for arm in arms if not arm.is_baseline]
    half = (most - 1) // 2
    chosen_ids = {arm.id for arm in [*others[:half], *others[-half:], *(arm for arm in arms if arm.is_baseline)]}
    chosen = [arm for arm in arms if arm.id in chosen_ids]
    return chosen, f" Of {len(arms)} arms the baseline, the {half} best and the {half} worst are drawn; the table lists all."


def spread_out(items: Sequence[_Item], most: int) -> Sequence[_Item]:
    """Return at most `most` items, evenly spaced from the first to the last; all of them if they fit. `most`: at least 2."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
