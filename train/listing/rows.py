"""The table of runs: one row a run, columns of plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from train.listing.found import Found, arm_names_of
from train.report.collect import Setting, factors_of, settings_of
from train.store.kinds import NON_FINITE, is_number, is_whole
from train.store.metrics import decode_float
from train.store.notes import notes_of
from train.store.overrides import text
from train.store.run import Run
from train.store.values import IN_SUMMARY, size_of, time_of

TEXTS = ("folder", "sweep", "status", "reason", "arm", "arm_id", "identity", "note", "started", "device", "precision")
SCORES = tuple(IN_SUMMARY.values())
FLOATS = (*SCORES, "time_s", "images_per_s")
WHOLE = ("seed", "test_examples", "val_examples", "steps", "parameters", "flops_per_image", "peak_memory_bytes", "size_bytes")
"""The columns of text, of float64 and of int64, whatever the runs are. `tags` is a list of texts, `archived` true or false."""

_MOST = 1 << 63
_COUNTS = ("test_examples", "val_examples", "steps", "parameters", "flops_per_image", "peak_memory_bytes")

Columns = dict[str, list[Any]]


def columns_of(found: Found, runs: Sequence[Run]) -> Columns:
    """Return the table of `runs`, which are of `found`: name -> values, all of the same length, None for what is unknown.

    Columns: which run it is and what became of it; `arm`, what it changes in words; the option groups, and the keys that differ
    between the runs in `found`; results, accuracies as fractions; how it was made. They are named as in results.csv.
    """
    arms, settings = arm_names_of(found), dict(zip(map(id, found.runs), settings_of(found.runs), strict=True))
    rows = [_identity(run, found, arms[run.folder]) for run in runs]
    first = {name: [row[name] for row in rows] for name in _FIRST}
    varied = _settings([*settings.values()], [settings[id(run)] for run in runs])
    results = {name: [read(run) for run in runs] for name, read in _RESULTS.items()}
    return first | {name: values for name, values in varied.items() if name not in first | results} | results


_FIRST = ("folder", "sweep", "status", "reason", "arm", "arm_id", "identity", "seed", "note", "tags", "archived")


def _identity(run: Run, found: Found, arm: str) -> dict[str, Any]:
    notes, sweep = notes_of(run.folder), found.sweep_of(run)
    named = (str(run.folder), sweep.name if sweep else "", run.state, run.reason, arm, run.arm, run.identity)
    seed = run.seed if abs(run.seed) < _MOST else None
    return dict(zip(_FIRST, (*named, seed, notes.note, [*notes.tags], notes.archived), strict=True))


def _settings(found: Sequence[Setting], wanted: Sequence[Setting]) -> Columns:
    """Return the columns of the option groups, and of the keys that differ between `found`, for the runs of `wanted`."""
    distinct = [*{id(setting): setting for setting in found}.values()]
    groups = dict.fromkeys(group for setting in distinct for group in setting.choices)
    names = [name for name in dict.fromkeys((*groups, *factors_of(distinct))) if name.isprintable()]
    return {name: _column([_setting(setting, name) for setting in wanted]) for name in names}


def _setting(setting: Setting, name: str) -> Any:
    if name in setting.choices:
        return setting.choices[name]
    return setting.values[name] if name in setting.values else _absent_is_none(setting.level(name))


def _absent_is_none(level: str) -> str | None:
    return None if level == "-" else level


def _column(values: list[Any]) -> list[Any]:
    """Return values of one kind: whole numbers, numbers, true and false, or else text."""
    there = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in there) or all(is_whole(value) and abs(value) < _MOST for value in there):
        return values
    if all(map(is_number, there)):
        return [value if value is None else float(value) for value in values]
    return [value if value is None else text(value) for value in values]


def _score(key: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        value: Any = run.summary.get(key)
        return decode_float(value) if is_number(value) or value in NON_FINITE else None

    return read


def _count(key: str) -> Callable[[Run], int | None]:
    def read(run: Run) -> int | None:
        value = run.summary.get(key, run.status.get(key))
        return int(value) if is_number(value) and math.isfinite(value) else None

    return read


def _text(key: str) -> Callable[[Run], str | None]:
    return lambda run: run.status.get(key)


_RESULTS: Mapping[str, Callable[[Run], Any]] = {
    **{key: _score(key) for key in SCORES},
    **{key: _count(key) for key in _COUNTS},
    "time_s": time_of,
    "images_per_s": _score("images_per_s"),
    "size_bytes": lambda run: size_of(run.folder),
    **{key: _text(key) for key in ("started", "device", "precision")},
}
