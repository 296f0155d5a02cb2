"""Find the factors in which arms differ: option groups and configuration keys. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.store.identity import SEEDS, experiment_of
from train.store.overrides import flatten
from train.store.run import Run

ABSENT = "-"
"""The level of an arm whose configuration lacks the key."""


@dataclass(frozen=True)
class Setting:
    """The configuration of an arm.

    `choices`: option group -> option; `values`: dotted key -> value. Neither includes seeds or bookkeeping.
    """

    choices: Mapping[str, str]
    values: Mapping[str, Any]

    def level(self, factor: str) -> str:
        """Return the level of an option group, a dotted key or an axis as typed (`+trainer.max_steps`); ABSENT without one."""
        key = re.sub(r"^[+~]+|@.*$", "", factor)
        if key in self.choices:
            return self.choices[key]
        if key in self.values:
            return text(self.values[key])
        nested = {name[len(key) + 1 :]: value for name, value in self.values.items() if name.startswith(f"{key}.")}
        return text(nested) if nested else ABSENT


def setting_of(run: Run) -> Setting:
    """Return the setting of the arm to which `run` belongs."""
    kept = {key: value for key, value in experiment_of(run.config).items() if key not in SEEDS}
    return Setting({str(group): str(option) for group, option in run.choices.items()}, flatten(kept))


def text(value: Any) -> str:
    """Format a configuration value as it would be typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)


def factors_of(settings: Sequence[Setting]) -> tuple[str, ...]:
    """Return the option groups that differ between `settings`, then the keys whose difference no group's choice explains.

    `norm=group` has a key `norm.groups` and `norm=batch` has none: the factor is `norm` alone, unless two arms with `norm=group`
    differ in `norm.groups`.
    """
    groups = [group for group in _union(setting.choices for setting in settings) if _differ([s.level(group) for s in settings])]
    keys = _union(setting.values for setting in settings)
    return (*groups, *(key for key in keys if _differs_within_option(key, settings, groups)))


def _differs_within_option(key: str, settings: Sequence[Setting], groups: Sequence[str]) -> bool:
    """Return whether `key` differs between settings that have the same option of its group."""
    group = key.partition(".")[0]
    if group not in groups:
        return _differ([text(setting.values.get(key, ABSENT)) for setting in settings])
    by_option: dict[str, list[str]] = {}
    for setting in settings:
        by_option.setdefault(setting.level(group), []).append(text(setting.values.get(key, ABSENT)))
    return any(_differ(levels) for levels in by_option.values())


def levels_in_order(levels: Sequence[str]) -> tuple[str, ...]:
    """Return each level once: numbers sorted, anything else in the order of first appearance."""
    unique = tuple(dict.fromkeys(levels))
    try:
        return tuple(sorted(unique, key=float))
    except ValueError:
        return unique


def _differ(levels: Sequence[str]) -> bool:
    return len(set(levels)) > 1


def _union(mappings: Any) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
