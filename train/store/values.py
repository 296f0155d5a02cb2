"""What a run knows by name: its settings, the content of its files, and the last values of its metrics."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from train.store.files import MANIFEST_FILE
from train.store.inside import Folder, is_there
from train.store.kinds import NON_FINITE, is_number
from train.store.metrics import decode_float, last_value
from train.store.notes import notes_of
from train.store.overrides import flatten
from train.store.run import Run

MISSING = object()
"""The value of what a run does not have."""

IN_SUMMARY = {
    "accuracy/test": "test_accuracy",
    "accuracy/val": "val_accuracy",
    "loss/test": "test_loss",
    "loss/val": "val_loss",
    "loss/train": "train_loss",
}
"""Tag -> the key of summary.json that holds its final value. Any other tag takes its last record as the final value."""

FIELDS: Mapping[str, Callable[[Run], Any]] = {
    "status": lambda run: run.state,
    "state": lambda run: run.state,
    "reason": lambda run: run.reason,
    "run": lambda run: run.folder.name,
    "folder": lambda run: str(run.folder),
    "arm": lambda run: run.arm,
    "seed": lambda run: run.seed,
    "data_id": lambda run: run.data or "unknown",
    "sweep": lambda run: run.folder.parent.name if is_there(run.folder.parent / MANIFEST_FILE) else "",
    "started": lambda run: run.status.get("started", MISSING),
    "time": lambda run: MISSING if (seconds := time_of(run)) is None else seconds,
    "size": lambda run: size_of(run.folder),
    "note": lambda run: notes_of(run.folder).note,
    "tag": lambda run: notes_of(run.folder).tags,
}
"""Name -> what it says of a run (several tags: a tuple); other names are those of option groups, of keys and of metrics."""

_DEEPEST = 8
"""Folders in each other whose files are counted: those of a run lie two deep."""

_RATE = "lr"
"""The one tag without a slash."""


def value_of(run: Run, key: str) -> Any:
    """Return what a run knows by this name; `MISSING` if it knows nothing.

    `key`: one of `FIELDS`, an option group (`norm`), a dotted key of config.yaml, summary.json or status.json
    (`optimizer.lr`, `test_accuracy`, `versions.torch`), or the tag of a metric (`accuracy/test`), of which the last value
    counts. Records are read only for a metric that the summary does not hold.
    """
    key = re.sub(r"^[+~]+|@.*$", "", key)
    if key in FIELDS:
        return FIELDS[key](run)
    if key in run.choices:
        return run.choices[key]
    for content in (run.config, run.summary, run.status):
        found = _at(content, key.replace("/", ".") if content is run.config else key)
        if found is not MISSING:
            return decode_float(found) if isinstance(found, str) and found in NON_FINITE else found
    return _metric(run, key)


def has_setting(run: Run, key: str) -> bool:
    """Return whether a name stands for an option group or a key of config.yaml."""
    key = re.sub(r"^[+~]+|@.*$", "", key)
    return key in run.choices or _at(run.config, key.replace("/", ".")) is not MISSING


def _metric(run: Run, tag: str) -> Any:
    """Return the last value of a metric: that of the summary, else the last record."""
    stored = run.summary.get(IN_SUMMARY.get(tag, ""))
    if stored is not None:
        return decode_float(stored) if is_number(stored) or stored in NON_FINITE else MISSING
    found = last_value(run.metrics_file, tag) if is_tag(tag) else None
    return MISSING if found is None else found


def is_tag(key: str) -> bool:
    """Return whether a key may be the tag of a metric."""
    return key == _RATE or "/" in key


def known_keys(runs: Iterable[Run]) -> list[str]:
    """Return the names that the runs know, without those of metrics that only their records hold."""
    known: dict[str, None] = dict.fromkeys((*FIELDS, *IN_SUMMARY, _RATE))
    for run in runs:
        known |= dict.fromkeys((*run.choices, *flatten(run.config)))
        known |= dict.fromkeys(key for content in (run.summary, run.status) for key in content)
    return [*known]


def _at(content: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key."""
    value: Any = content
    for part in key.split("."):
        value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    return value


def time_of(run: Run) -> float | None:
    """Return how long a run took in seconds; None while that is not known."""
    value = run.summary.get("time_s", run.status.get("wall_s"))
    return float(value) if is_number(value) else None


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder; no link is followed, and what cannot be read does not count."""
    total, pending = 0, [Folder(folder)]
    while pending:
        place = pending.pop()
        try:
            entries = place.entries()
        except OSError:
            continue
        total += sum(found.st_size for found in entries.values() if stat.S_ISREG(found.st_mode))
        if len(place.below) < _DEEPEST:
            pending += [place / name for name, found in entries.items() if stat.S_ISDIR(found.st_mode)]
    return total
