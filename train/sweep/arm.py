"""The composed form of one arm, shared by planning and tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.store.manifest import PlannedRun
from train.sweep.design import Levels


@dataclass(frozen=True)
class ComposedArm:
    """An arm of a sweep with its configuration and its runs.

    `levels`: one of every axis; `overrides`: without seeds; `config`: the experiment with the first seeds; `choices`: config
    group -> chosen option; `runs`: one per seed; `tuned`: an id shared by the arms that differ in tuned keys alone, or empty.
    """

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
