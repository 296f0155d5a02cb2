"""The records of a tuned sweep in `sweep.json`: how its levels are tried, and which one was chosen for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """How the levels of tuned keys are tried, as planned before the first run.

    `seeds`: of the runs that try levels, none of which is compared; `epochs`: the share of the epochs that they train, 1 for all;
    `extend`: the number of levels by which a range of numbers is extended at most, at either end.
    """

    seeds: tuple[int, ...]
    epochs: float
    extend: int


@dataclass(frozen=True)
class Tried:
    """A level as it was when the choice was made.

    `score`: the mean validation accuracy of the runs that have one, None without any; `runs`: their number; `diverged`, `failed`:
    the numbers of those that are lost.
    """

    setting: Mapping[str, str]
    score: float | None
    runs: int
    diverged: int
    failed: int


@dataclass(frozen=True)
class Choice:
    """The level of the tuned keys at which an arm is compared. Once made, it is never made anew.

    `arm`: the id of the arm at that level, empty if every run was lost at every level; `setting`: key -> level; `when`: the time
    of the choice.
    """

    arm: str
    setting: Mapping[str, str]
    tried: tuple[Tried, ...]
    when: str

    @property
    def is_final(self) -> bool:
        """Whether it stays when the sweep is repeated. Where no run gave a score and some failed, these are made again."""
        return bool(self.arm) or not any(level.failed for level in self.tried)


def tuning_of(content: Mapping[str, Any] | None) -> Tuning | None:
    """Return the record from its checked content."""
    return None if content is None else Tuning(tuple(content["seeds"]), content["epochs"], content["extend"])


def choices_of(content: Mapping[str, Any] | None) -> dict[str, Choice]:
    """Return the choices, by the id that the levels of an arm share, from their checked content."""
    return {
        tuned: Choice(choice["arm"], choice["setting"], tuple(map(_tried, choice["tried"])), choice["when"])
        for tuned, choice in (content or {}).items()
    }


def _tried(content: Mapping[str, Any]) -> Tried:
    return Tried(content["setting"], content.get("score"), content["runs"], content["diverged"], content["failed"])
