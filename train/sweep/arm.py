"""One arm of a sweep, composed: what plans hold and what is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.store.manifest import PlannedRun
from train.sweep.design import Levels


@dataclass(frozen=True)
class ComposedArm:
    """`levels`: of every axis; `overrides`: without seeds; `config`: the experiment with the first seeds; `choices`: option group
    -> chosen option; `runs`: one a seed; `tuned`: what it shares with those that differ from it in tuned keys alone, or empty."""

    id: str
    levels: Levels
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    runs: tuple[PlannedRun, ...]
    tuned: str = ""

    @property
    def name(self) -> str:
        return " ".join(f"{axis}={level}" for axis, level in self.levels.items()) or "defaults"
