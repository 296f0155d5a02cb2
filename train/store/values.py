"""What a run knows by name: its settings, the content of its files, and the last values of its metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from train.store.kinds import NON_FINITE, is_number
from train.store.metrics import decode_float, last_value
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
    "reason": lambda run: run.reason,
    "run": lambda run: run.folder.name,
    "folder": lambda run: str(run.folder),
    "arm": lambda run: run.arm,
    "seed": lambda run: run.seed,
    "started": lambda run: run.status.get("started", MISSING),
}
"""Name -> what it says of a run; other names are those of option groups, of keys and of metrics."""

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
