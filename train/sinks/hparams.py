"""Which row of TensorBoard's HParams table a run belongs to, and what stands in it. Starts without TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from train.store.identity import SEEDS, arm_id
from train.store.overrides import key_of

Value: TypeAlias = bool | float | str

GROUPS_LAST = ("data", "trainer", "observe")
"""What is set in these is seldom the question."""


@dataclass(frozen=True)
class HParamsRow:
    """All runs of one configuration, whatever their seeds.

    `id`: the same for two runs exactly when they are of one arm; `values`: column -> value; `first`: the columns that the table
    shows before the others. It shows five, and the others on request.
    """

    id: str
    values: Mapping[str, Value] = field(default_factory=dict)
    first: frozenset[str] = frozenset()


def hparams_row(config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Iterable[str]) -> HParamsRow:
    """The arm of a run.

    `config`: resolved; `choices`: option group -> chosen option, None where none is; `overrides`: as typed, such as
    `norm=batch` or `+trainer.max_steps=5`. The columns are the groups, every other key that was set, typed as in `config`, and
    `arm`, all that was set in one string: TensorBoard takes its list of columns from the first run of a folder, and hides those
    that only a later run has. Seeds are in none of them.
    """
    typed = {key: value for key, value in map(_split, overrides) if key.partition(".")[0] not in SEEDS}
    ranked = sorted(typed, key=lambda key: (key.partition(".")[0] in GROUPS_LAST, "." in key, key))
    values: dict[str, Value] = {"arm": " ".join(f"{key}={typed[key]}" for key in ranked) or "defaults"}
    values |= {group: option for group, option in choices.items() if option is not None}
    values |= {key: _plain(_look_up(config, key, value)) for key, value in typed.items() if key not in values}
    return HParamsRow(arm_id(config), values, frozenset(["arm", *ranked[:4]]))


def _split(override: str) -> tuple[str, str]:
    return key_of(override), override.partition("=")[2]


def _look_up(config: Mapping[str, Any], key: str, typed: str) -> Any:
    """The value at a dotted key; what was typed where the configuration has no such key, as for one that was taken away."""
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return typed
        found = found[part]
    return found


def _plain(value: Any) -> Value:
    """A value that a column can hold: numbers are floats, null and lists are written out."""
    if isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, int | float) else json.dumps(value, default=str)
