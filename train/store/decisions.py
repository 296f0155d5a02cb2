"""Planned looks at a sweep that grows in blocks of seeds, and what was decided at them: records of `sweep.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

MOST_SEEDS, MOST_LOOKS = 500, 50
"""Limits of a plan, so that the levels of its looks can be computed."""

Decided: TypeAlias = Literal["different", "equivalent", "not_comparable", "undecided", "open"]
"""What is known of an arm against the baseline. `open`: more runs may decide it; `undecided`: all seeds did not."""


@dataclass(frozen=True)
class PlannedLooks:
    """When the arms of a sweep are compared with the baseline, as planned before the first run.

    `axis`: the seed axis as typed; `seeds`: its levels in the order in which an arm gets them; `looks`: the seeds per arm at each
    look; `margin`: differences within it are equivalent, in the metric's unit, None if none are; `stops`: whether an arm gets no
    more seeds once it is decided; `metric`: that of the comparison; `arms`: those that are compared, the baseline first, each by
    its id, or by the one that the levels of its tuned keys share.
    """

    axis: str
    seeds: tuple[str, ...]
    looks: tuple[int, ...]
    margin: float | None
    stops: bool
    metric: str
    arms: tuple[str, ...]

    @property
    def block(self) -> int:
        """The number of seeds of a block."""
        return self.looks[0]

    def counts(self, overrides: Iterable[str], look: int) -> bool:
        """Return whether a look counts the run with these overrides, which is one of the compared arms."""
        return not {f"{self.axis}={seed}" for seed in self.seeds[: self.looks[look - 1]]}.isdisjoint(overrides)


@dataclass(frozen=True)
class Decision:
    """What the last look at an arm said of it against the baseline. Unless it is `open`, it is never made anew.

    `look`: its number, counted from 1; `seeds`: per arm at this look; `difference`, `low`, `high`: of the means, and the ends of
    the interval with the confidence 1 - `level`, None where the runs determine none; `note`: why the look decided nothing.
    """

    look: int
    seeds: int
    verdict: Decided
    level: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def are_looks(value: Any) -> bool:
    """Return whether a stored value may be the seeds at each look."""
    if not (isinstance(value, list) and all(type(seeds) is int for seeds in value) and 0 < len(value) <= MOST_LOOKS):
        return False
    return value == sorted(set(value)) and value[0] > 0 and value[-1] <= MOST_SEEDS


def planned_looks_of(content: Mapping[str, Any] | None) -> PlannedLooks | None:
    """Return the record from its checked content."""
    if content is None:
        return None
    lists = {key: tuple(content[key]) for key in ("seeds", "looks", "arms")}
    rest = {key: content[key] for key in ("axis", "stops", "metric")}
    return PlannedLooks(**lists, **rest, margin=content.get("margin"))


def decisions_of(content: Mapping[str, Any] | None, planned: PlannedLooks | None) -> dict[str, Decision]:
    """Return arm -> decision from its checked content; without those at looks that are not planned."""
    names, looks = [item.name for item in fields(Decision)], len(planned.looks) if planned else 0
    decisions = {arm: Decision(**{name: record.get(name) for name in names}) for arm, record in (content or {}).items()}
    return {arm: decision for arm, decision in decisions.items() if decision.look <= looks}
