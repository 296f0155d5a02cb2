"""Choose, for every arm, the level of the tuned keys at which it is compared.

A sweep chooses by runs that only try levels, before the comparison, and keeps the choice (`train.report.trials`). Where the runs
that are compared are those that try the levels, the report chooses.

The chosen level has the best mean validation accuracy after the last step, over the arm's runs. The metric by which arms are
compared, above all on the test split, plays no part in the choice. A level that lost a run (diverged, failed) ranks below all
levels that lost none, because the mean of the remaining runs is that of a selection; among such levels the one that lost the
smallest share comes first. A level with pending runs ranks below complete ones. Ties go to the first level.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from train.report.collect import FAILED
from train.report.metric import as_float
from train.store.run import Run

TIE_TOLERANCE = 1e-12
"""Means that differ by less are equal: they are sums of the same fractions in another order."""


@dataclass(frozen=True)
class Level:
    """One combination of levels of the tuned keys in one arm.

    `arm`: the id of its configuration; `setting`: key -> level; `planned`: number of planned runs, 0 without a plan.
    """

    arm: str
    setting: Mapping[str, str]
    runs: tuple[Run, ...]
    planned: int = 0

    @property
    def name(self) -> str:
        return " ".join(f"{key}={level}" for key, level in self.setting.items())

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The final validation accuracies of the completed runs that have one."""
        accuracies = [as_float(run.summary.get("val_accuracy")) for run in self.runs if run.state == "done"]
        return tuple(value for value in accuracies if math.isfinite(value))

    @property
    def mean(self) -> float:
        """The mean of `values`; NaN without any."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN for fewer than two runs."""
        return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan

    @property
    def diverged(self) -> int:
        return sum(run.state == "diverged" for run in self.runs)

    @property
    def failed(self) -> int:
        return sum(run.state in FAILED for run in self.runs)

    @property
    def lost(self) -> int:
        """The number of diverged and failed runs."""
        return self.diverged + self.failed

    @property
    def size(self) -> int:
        """The number of runs, started or planned."""
        return max(self.planned, len(self.runs))

    @property
    def pending(self) -> int:
        """The number of runs without a result, including completed ones without a validation accuracy."""
        return self.size - len(self.values) - self.lost

    @property
    def was_tried(self) -> bool:
        """Whether at least one run has a result."""
        return bool(self.values) or self.lost > 0

    @property
    def rank(self) -> tuple[float, ...]:
        """A sort key; smaller is better."""
        if not self.values:
            return (1,)
        return 0, self.lost > 0, self.pending > 0, self.lost / (self.lost + len(self.values)), -self.mean


@dataclass(frozen=True)
class TunedLevel:
    """The chosen level of one arm. `levels`: all levels tried or planned, in order; `chosen` is one of them.

    `own_runs`: the runs that are compared, if those of the levels are others, with other seeds; `other_runs`: more such runs, at
    levels that were not chosen. `is_kept`: whether the choice was made before these runs and stays.
    """

    levels: tuple[Level, ...]
    chosen: Level
    own_runs: tuple[Run, ...] | None = None
    other_runs: tuple[Run, ...] = ()
    is_kept: bool = False

    @property
    def is_separate(self) -> bool:
        """Whether runs of their own tried the levels."""
        return self.own_runs is not None

    @property
    def compared(self) -> tuple[Run, ...]:
        """The runs at the chosen level that are compared."""
        return self.chosen.runs if self.own_runs is None else self.own_runs

    @property
    def unchosen(self) -> tuple[Run, ...]:
        """The runs that only served to choose."""
        levels = self.others if self.own_runs is None else self.levels
        return (*(run for level in levels for run in level.runs), *self.other_runs)

    @property
    def others(self) -> tuple[Level, ...]:
        """The levels that were not chosen."""
        return tuple(level for level in self.levels if level is not self.chosen)

    @property
    def runs_by_level(self) -> list[tuple[str, tuple[Run, ...]]]:
        """All runs, with the level in words."""
        if self.own_runs is None:
            return [(f"at {level.name}", level.runs) for level in self.levels]
        tried = [(f"tried at {level.name}", level.runs) for level in self.levels]
        return [(f"at {self.chosen.name}", self.own_runs), *tried, ("at other levels", self.other_runs)]

    @property
    def was_measured(self) -> bool:
        """Whether the choice rests on a validation accuracy; otherwise no level has one and the first represents the arm."""
        return bool(self.chosen.values) or self.is_kept

    @property
    def lost_all(self) -> bool:
        """Whether every run at every level diverged or failed."""
        return not self.was_measured and all(level.lost and not level.pending for level in self.levels)

    @property
    def is_provisional(self) -> bool:
        """Whether runs are pending that may change the choice."""
        return not self.is_kept and any(level.pending for level in self.levels)

    @property
    def tied(self) -> tuple[Level, ...]:
        """The other levels that rank equal to the chosen one."""
        if not self.was_measured:
            return ()
        return tuple(level for level in self.others if _is_tie(level.rank, self.chosen.rank))

    @property
    def edges(self) -> Mapping[str, str]:
        """Key -> "smallest" or "largest", for numeric keys whose chosen level is at an end of the range tried."""
        if not self.was_measured:
            return {}
        edges = {}
        for key, level in self.chosen.setting.items():
            tried = _numbers([candidate.setting[key] for candidate in self.levels if candidate.was_tried])
            if tried and len(set(tried)) > 1 and float(level) in (min(tried), max(tried)):
                edges[key] = "smallest" if float(level) == min(tried) else "largest"
        return edges


def choose(levels: Sequence[Level]) -> TunedLevel:
    """Choose the best of the `levels` of one arm, at least one. Numbers are sorted; other levels keep their order."""
    ordered = tuple(sorted(levels, key=_sort_key(levels)))
    best = min(level.rank for level in ordered)
    return TunedLevel(ordered, next(level for level in ordered if _is_tie(level.rank, best)))


def _is_tie(rank: Sequence[float], best: Sequence[float]) -> bool:
    return len(rank) == len(best) and [*rank[:-1]] == [*best[:-1]] and abs(rank[-1] - best[-1]) < TIE_TOLERANCE


def _sort_key(levels: Sequence[Level]) -> Callable[[Level], tuple[float, ...]]:
    """Return a sort key for levels: for each tuned key the number itself, or the position of a word."""
    orders = {}
    for key in levels[0].setting:
        names = list(dict.fromkeys(level.setting[key] for level in levels))
        values = _numbers(names)
        orders[key] = dict(zip(names, values or range(len(names)), strict=True))
    return lambda level: tuple(orders[key][name] for key, name in level.setting.items())


def _numbers(levels: Sequence[str]) -> list[float]:
    """Return the levels as numbers; empty when one of them is no number."""
    try:
        return [float(level) for level in levels]
    except ValueError:
        return []
