"""Stored files as checked values. The code behind trusts the types; null stands for a field that is absent.

A field that a table names is of its kind, or the file is refused with one sentence; what no table names may be any plain value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.store.config_text import config_of, overrides_of
from train.store.files import (
    CONFIG_FILE,
    DATA_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    NOTES_FILE,
    OVERRIDES_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
)
from train.store.inside import Folder
from train.store.kinds import (
    COUNT,
    FLAG,
    MAPPING,
    PLAIN,
    POSITIVE,
    PROCESS,
    SCORE,
    SHARE,
    TEXT,
    WHOLE,
    Kind,
    checked,
    is_text,
    is_whole,
    list_of,
    mapping_of,
    shown,
    wrong_field,
)
from train.store.manifest_kinds import MANIFEST
from train.store.plain import MalformedError, parse_json

SMALL_FILE = 1 << 20
"""Limit in bytes of config.yaml and overrides.yaml."""
MEDIUM_FILE = 1 << 24
"""Limit in bytes of status.json and summary.json."""
LARGE_FILE = 1 << 26
"""Limit in bytes of files that grow with the number of classes or runs: data.json, and sweep.json, which holds 100,000 runs. In
memory their values may take twenty times as much."""

MOST_SETTINGS = 1_000
"""Ten times those of a run. A report compares each of them between its arms."""

OVERRIDES = list_of(PLAIN)

STATUS: Mapping[str, Kind] = {
    **dict.fromkeys(("status", "reason", "identity", "arm", "data", "code", "started", "host", "device", "precision"), TEXT),
    **dict.fromkeys(("exit_code", "identity_version"), WHOLE),
    **dict.fromkeys(("wall_s", "peak_memory_bytes", "total_steps"), COUNT),
    "pid": PROCESS,
    **dict.fromkeys(("own_code", "versions"), mapping_of(PLAIN)),
    "choices": mapping_of(Kind("text, a number or null", lambda value: value is None or PLAIN.holds(value))),
    **dict.fromkeys(("git", "diagnosis"), MAPPING),
    "own_parts": list_of(TEXT),
    "threads": WHOLE,
    "memory_format": TEXT,
    "input_shape": list_of(POSITIVE),
    "preprocess": MAPPING,
    "resumed": list_of(MAPPING),
}

_LOSSES = ("train_loss", "val_loss", "test_loss")
_COUNTS = (
    "steps",
    "time_s",
    "parameters",
    "flops_per_image",
    "val_examples",
    "test_examples",
    "images_per_s",
    "peak_memory_bytes",
)

SUMMARY: Mapping[str, Kind] = {
    **dict.fromkeys(("status", "reason"), TEXT),
    **dict.fromkeys(_COUNTS, COUNT),
    **dict.fromkeys(("val_accuracy", "test_accuracy"), SHARE),
    **dict.fromkeys(_LOSSES, SCORE),
    **dict.fromkeys(("fingerprint", "initial_verdict", "expected_signal"), MAPPING),
    "contradictions": list_of(TEXT),
    "test_correct_by_class": list_of(COUNT),
}

_SPLIT = {"images": WHOLE, "counts": list_of(WHOLE), "contents": list_of(TEXT), "order": TEXT}


def _is_split(value: Any) -> bool:
    return isinstance(value, dict) and {"images", "counts"} <= value.keys() and not wrong_field(value, _SPLIT)


DATA: Mapping[str, Kind] = {"classes": list_of(TEXT), "splits": mapping_of(Kind("what a split holds", _is_split))}

NOTES: Mapping[str, Kind] = {"note": TEXT, "tags": list_of(TEXT), "archived": FLAG}

HOLDER: Mapping[str, Kind] = {"pid": PROCESS, "host": TEXT, "since": TEXT, "ticks": WHOLE}


@dataclass(frozen=True)
class _Format:
    """A file of JSON.

    `limit`: of its size in bytes; `required`: the fields without which it cannot be read; `dispensable`: those that are unknown
    (null, or NaN for a number) if they hold anything else, since a report says so.
    """

    kinds: Mapping[str, Kind]
    limit: int
    required: tuple[str, ...] = ()
    dispensable: frozenset[str] = frozenset()


_FORMATS = {
    STATUS_FILE: _Format(STATUS, MEDIUM_FILE, ("status",), frozenset({"diagnosis"})),
    SUMMARY_FILE: _Format(SUMMARY, MEDIUM_FILE, (), frozenset(SUMMARY)),
    DATA_FILE: _Format(DATA, LARGE_FILE, ("classes", "splits")),
    MANIFEST_FILE: _Format(
        MANIFEST,
        LARGE_FILE,
        ("format", "command", "design", "axes", "seeds", "baseline", "arms", "runs", "dropped", "zipped", "study", "notes"),
    ),
    NOTES_FILE: _Format(NOTES, SMALL_FILE),
    LOCK_FILE: _Format(HOLDER, SMALL_FILE, ("pid", "host", "since")),
}


def read_stored(folder: Path, name: str) -> dict[str, Any]:
    """Return the checked content of a file of JSON in a run or sweep folder. OSError, or MalformedError (a ValueError)."""
    kind = _FORMATS[name]
    content = parse_json(Folder(folder).read(name, kind.limit), name)
    if isinstance(content, dict):
        for key in kind.dispensable & content.keys():
            if wrong_field({key: content[key]}, {key: kind.kinds[key]}):
                content[key] = "NaN" if kind.kinds[key] in (SHARE, SCORE, COUNT) else None
    needed = {key: field for key, field in kind.kinds.items() if key not in kind.dispensable}
    return checked(content, needed, name, kind.required)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checked content of config.yaml: a mapping whose seeds are whole numbers. Errors as of `read_stored`.

    A seed is a text with `${` if the run failed before that was resolved.
    """
    content = checked(config_of(_text(folder, CONFIG_FILE)) or {}, _CONFIG, CONFIG_FILE)
    if _settings(content) > MOST_SETTINGS:
        raise MalformedError(f"{CONFIG_FILE} holds more than {MOST_SETTINGS:,} settings")
    return content


def _settings(content: dict[Any, Any]) -> int:
    """Return how many values a configuration holds. Lists and empty mappings are values, as in `flatten`."""
    return sum(_settings(value) if isinstance(value, dict) and value else 1 for value in content.values())


def _text(folder: Path, name: str) -> str:
    """Return the text of a file of YAML."""
    try:
        return Folder(folder).read(name, SMALL_FILE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{name} is not valid YAML (UnicodeDecodeError: {error})") from None


_SEED = Kind("a whole number", lambda value: is_whole(value) or (is_text(value) and "${" in value))
_CONFIG: Mapping[str, Kind] = {"seed": _SEED, "seeds": mapping_of(_SEED)}


def read_overrides(folder: Path) -> tuple[str, ...]:
    """Return the overrides in overrides.yaml. Errors as of `read_stored`."""
    content = overrides_of(_text(folder, OVERRIDES_FILE))
    if content is not None and not OVERRIDES.holds(content):
        raise MalformedError(f"{OVERRIDES_FILE} should be {OVERRIDES.words}, not {shown(content)}")
    return tuple(map(str, content or ()))
