"""The row of a run in TensorBoard's HParams table. Does not import TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from train.command import config_dir
from train.escape import terminal
from train.store.identity import BOOKKEEPING, SEEDS, arm_id, run_id
from train.store.inside import Folder
from train.store.overrides import flatten, key_of
from train.store.plain import parse_yaml
from train.store.planned_names import planned_arm
from train.store.stored import SMALL_FILE

Value: TypeAlias = bool | float | str

GROUPS_LAST = ("data", "trainer", "observe")
"""Groups whose settings are rarely the subject of a study; their columns come last."""
_NO_GROUPS = ("hydra", "experiment", "study")
_NO_SETTINGS = (*SEEDS, *BOOKKEEPING, *_NO_GROUPS)


@dataclass(frozen=True)
class HParamsRow:
    """The row of one arm: all runs of one configuration, with any seeds.

    `id`: equal for two runs exactly if they belong to the same arm; `values`: column -> value; `first`: the columns shown first.
    The table shows five columns by default.
    """

    id: str
    values: Mapping[str, Value] = field(default_factory=dict)
    first: frozenset[str] = frozenset()


def hparams_row(config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Iterable[str]) -> HParamsRow:
    """Return the HParams row of a run.

    `config`: resolved; `choices`: config group -> chosen option, None without one; `overrides`: as typed, such as `norm=batch` or
    `+trainer.max_steps=5`. The columns are the groups, every setting of `config` with its type there, but for those that are null
    unless typed, and `arm`, all overrides in one string. Seeds are in no column.
    """
    typed = {key: value for key, value in map(_split, overrides) if key.partition(".")[0] not in SEEDS}
    ranked = sorted(typed, key=_rank)
    values: dict[str, Value] = {"arm": " ".join(f"{key}={typed[key]}" for key in ranked) or "defaults"}
    values |= {group: option for group, option in choices.items() if option is not None}
    values |= {key: _column_value(_value_at(config, key, value)) for key, value in typed.items() if key not in values}
    values |= {key: _column_value(value) for key, value in _settings(config) if key not in values and value is not None}
    shown = {terminal(name): terminal(value) if isinstance(value, str) else value for name, value in values.items()}
    return HParamsRow(run_id(arm_id(config), config, ""), shown, frozenset(["arm", *map(terminal, ranked[:4])]))


@cache
def known_columns() -> Mapping[str, Value | None]:
    """Return column -> an example value, None without one, for all groups and settings of `conf/`.

    TensorBoard takes its columns from the first table that it finds below a folder, and hides what that one lacks.
    """
    folder = Folder(config_dir())
    groups = [group for group in folder.subfolders() if group not in _NO_GROUPS]
    files = [_yaml(folder, "config.yaml")]
    files += [{group: _yaml(folder / group, name)} for group in groups for name in (folder / group).names()]
    settings = [pair for file in files for pair in _settings(file) if pair[1] is not None]
    keys = sorted({key for file in files for key, _ in _settings(file)})
    examples = {key: _column_value(value) for key, value in reversed(settings)}
    return {"arm": "", **dict.fromkeys(sorted(groups, key=_rank), ""), **{key: examples.get(key) for key in keys}}


def _yaml(folder: Folder, name: str) -> Any:
    return parse_yaml(folder.read(name, SMALL_FILE), name)


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of the settings of a configuration that may matter to a result."""
    for key, value in flatten(config).items():
        parts = key.split(".")
        if parts[0] not in _NO_SETTINGS and parts[-1] != "defaults" and not parts[-1].startswith("_") and value != {}:
            yield key, value


def _rank(key: str) -> tuple[bool, bool, str]:
    """Return the place of a column among the others."""
    return key.partition(".")[0] in GROUPS_LAST, "." in key, key


def named_in_sweep(row: HParamsRow, folder: Path) -> HParamsRow:
    """Return the row of the run in `folder` with the name of its arm in the sweep that planned it, if one did."""
    name = planned_arm(folder)
    return replace(row, values={**row.values, "arm": terminal(name)}) if name else row


def _split(override: str) -> tuple[str, str]:
    return key_of(override), override.partition("=")[2]


def _value_at(config: Mapping[str, Any], key: str, typed: str) -> Any:
    """Return the value at a dotted key, or `typed` if the configuration has no such key, for example a deleted one."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return typed
        value = value[part]
    return value


def _column_value(value: Any) -> Value:
    """Convert a value for a column: numbers become floats, null and lists become JSON text."""
    if isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, int | float) else json.dumps(value, default=str)
