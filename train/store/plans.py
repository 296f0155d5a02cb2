"""What was planned in a sweep's folder, command by command, and which pages with verdicts were made: records of `sweep.json`.

Verdicts are final once: when every run of a plan has ended, and from the runs of that plan alone. A sweep that grows after a page
has shown such verdicts is looked at several times, and each look is another chance for a false claim. So a page has to know which
runs were planned before anybody looked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

Standing: TypeAlias = Literal["final", "interim", "exploratory"]
MOST_LOOKS = 500
"""What is kept of pages that closed no plan: the newest."""


@dataclass(frozen=True)
class Plan:
    """What a command planned that added runs to the sweep.

    `when`: the local time, empty if an earlier version planned it; `arms`, `runs`: how many; `axes`, `seeds`, `design`,
    `baseline` and `tune`: as in the manifest, of this command alone.
    """

    when: str
    command: tuple[str, ...]
    design: str
    baseline: str
    tune: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[str, ...]]
    arms: int
    runs: int

    def repeats(self, other: Plan) -> bool:
        """Return whether both plan the same comparison: a stage of one sweep adds runs to it, and changes nothing else."""
        return replace(self, when="", command=(), runs=0) == replace(other, when="", command=(), runs=0)


@dataclass(frozen=True)
class Look:
    """A page with verdicts.

    `plans`: how many plans there were; `closes`: whether all their runs had ended, and a verdict had an interval: what is planned
    later was planned after this look; `runs`: arm -> its runs with a value of `metric`; `level`: the error rate of all verdicts
    of the page together.
    """

    when: str
    standing: Standing
    plans: int
    closes: bool
    runs: Mapping[str, int]
    metric: str
    level: float

    def repeats(self, other: Look) -> bool:
        """Return whether both show the same."""
        return replace(self, when="") == replace(other, when="")


def now() -> str:
    """Return the local time, as plans and looks record it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def plan_of(content: Mapping[str, Any]) -> Plan:
    """Return a plan from its checked record."""
    command, tune = tuple(content["command"]), tuple(content["tune"])
    axes, seeds = ({name: tuple(levels) for name, levels in content[key].items()} for key in ("axes", "seeds"))
    when, design, baseline = content["when"], content["design"], content["baseline"]
    return Plan(when, command, design, baseline, tune, axes, seeds, content["arms"], content["runs"])


def look_of(content: Mapping[str, Any]) -> Look:
    """Return a look from its checked record."""
    return Look(**{name.name: content[name.name] for name in fields(Look)})


def closing(looks: Sequence[Look]) -> Look | None:
    """Return the first look that closed a plan; None while there is none."""
    return next((look for look in looks if look.closes), None)


def with_look(looks: Sequence[Look], look: Look) -> tuple[Look, ...]:
    """Return the looks and a new one, which is left out if it shows what the last one did."""
    if looks and look.repeats(looks[-1]):
        return tuple(looks)
    found = (*looks, look)
    newest = found[-MOST_LOOKS:]
    first = closing(found)
    return newest if first is None or first in newest else (first, *newest)
