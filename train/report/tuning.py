"""Keys that are tuned: of the levels tried for an arm, the one at which it is compared.

It is the level with the best mean validation accuracy after the last step, over the arm's runs. What the runs are compared by,
the test split above all, has no part in it. A level that lost a run (diverged, failed) comes after all that lost none, since the
mean of those that are left is of a selection: among such, the one that lost the smallest share. A level that still waits for runs
comes after those that have all. Of levels that are equally good, the first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from train.report.collect import FAILED
from train.report.metric import number
from train.store.run import Run

SAME = 1e-12
"""Means that differ by less are equal: they are sums of the same fractions in another order."""


@dataclass(frozen=True)
class Level:
    """One combination of levels of the tuned keys in one arm. `arm`: the id of its configuration; `setting`: key -> level;
    `planned`: runs, 0 where no plan says."""

    arm: str
    setting: Mapping[str, str]
    runs: tuple[Run, ...]
    planned: int = 0

    @property
    def name(self) -> str:
        return " ".join(f"{key}={level}" for key, level in self.setting.items())

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The final validation accuracy of every run that came to its end and has one."""
        found = [number(run.summary.get("val_accuracy")) for run in self.runs if run.state == "done"]
        return tuple(value for value in found if math.isfinite(value))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN of fewer than two runs."""
        return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan

    @property
    def diverged(self) -> int:
        return sum(run.state == "diverged" for run in self.runs)

    @property
    def failed(self) -> int:
        return sum(run.state in FAILED for run in self.runs)

    @property
    def lost(self) -> int:
        return self.diverged + self.failed

    @property
    def size(self) -> int:
        """Its runs, made or planned."""
        return max(self.planned, len(self.runs))

    @property
    def waiting(self) -> int:
        """Runs that have no result yet, and those that ended without a validation accuracy."""
        return self.size - len(self.values) - self.lost

    @property
    def was_tried(self) -> bool:
        return bool(self.values) or self.lost > 0

    @property
    def rank(self) -> tuple[float, ...]:
        """Smaller is better."""
        if not self.values:
            return (1,)
        return 0, self.lost > 0, self.waiting > 0, self.lost / (self.lost + len(self.values)), -self.mean


@dataclass(frozen=True)
class Choice:
    """Of one arm. `levels`: all that were tried or planned, in their order; `chosen` is one of them."""

    levels: tuple[Level, ...]
    chosen: Level

    @property
    def others(self) -> tuple[Level, ...]:
        return tuple(level for level in self.levels if level is not self.chosen)

    @property
    def was_measured(self) -> bool:
        """Whether it is a choice at all: else no level has a validation accuracy, and the first stands for all."""
        return bool(self.chosen.values)

    @property
    def lost_all(self) -> bool:
        """Whether runs diverged or failed at every level and none came to its end."""
        return not self.was_measured and all(level.lost and not level.waiting for level in self.levels)

    @property
    def is_provisional(self) -> bool:
        return any(level.waiting for level in self.levels)

    @property
    def tied(self) -> tuple[Level, ...]:
        """Those that are as good as the chosen one."""
        if not self.was_measured:
            return ()
        return tuple(level for level in self.others if _as_good(level.rank, self.chosen.rank))

    @property
    def edges(self) -> Mapping[str, str]:
        """Key -> "smallest" or "largest", for keys with numbers of which the chosen level is at an end of those tried."""
        if not self.was_measured:
            return {}
        found = {}
        for key, level in self.chosen.setting.items():
            tried = _numbers([one.setting[key] for one in self.levels if one.was_tried])
            if tried and len(set(tried)) > 1 and float(level) in (min(tried), max(tried)):
                found[key] = "smallest" if float(level) == min(tried) else "largest"
        return found


def choose(levels: Sequence[Level]) -> Choice:
    """`levels`: of one arm, at least one, in the order in which they were found; numbers are put in order by size."""
    ordered = tuple(sorted(levels, key=_place(levels)))
    best = min(level.rank for level in ordered)
    return Choice(ordered, next(level for level in ordered if _as_good(level.rank, best)))


def _as_good(rank: Sequence[float], best: Sequence[float]) -> bool:
    return len(rank) == len(best) and [*rank[:-1]] == [*best[:-1]] and abs(rank[-1] - best[-1]) < SAME


def _place(levels: Sequence[Level]) -> Callable[[Level], tuple[float, ...]]:
    """A key to sort by: for each tuned key the number itself, or the place of the word."""
    orders = {}
    for key in levels[0].setting:
        found = list(dict.fromkeys(level.setting[key] for level in levels))
        known = _numbers(found)
        orders[key] = dict(zip(found, known or range(len(found)), strict=True))
    return lambda level: tuple(orders[key][name] for key, name in level.setting.items())


def _numbers(levels: Sequence[str]) -> list[float]:
    """Empty where one of them is none."""
    try:
        return [float(level) for level in levels]
    except ValueError:
        return []
