"""Stored files as checked values. The code behind trusts the types; null stands for a field that is absent.

A field that a table names is of its kind, or the file is refused with one sentence; what no table names may be any plain value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.store.config_text import config_of, overrides_of
from train.store.decisions import are_looks
from train.store.files import CONFIG_FILE, DATA_FILE, LOCK_FILE, MANIFEST_FILE, OVERRIDES_FILE, STATUS_FILE, SUMMARY_FILE
from train.store.inside import Folder
from train.store.overrides import flatten
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

LARGEST = 1e18
"""More than any number of steps, images, operations, bytes or seconds."""


@dataclass(frozen=True)
class Kind:
    """What a field may hold. `words`: for messages."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def list_of(kind: Kind) -> Kind:
    return Kind(f"a list, each {kind.words}", lambda value: isinstance(value, list) and all(map(kind.holds, value)))


def mapping_of(kind: Kind) -> Kind:
    return Kind(
        f"a mapping of names, each to {kind.words}",
        lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(kind.holds, value.values())),
    )


TEXT = Kind("text", _is_text)
ANY = Kind("any value", lambda _: True)
WHOLE = Kind("a whole number", _is_whole)
COUNT = Kind("a number of things", lambda value: _is_number(value) and 0 <= value <= LARGEST)
POSITIVE = Kind("a whole number from 1 on", lambda value: _is_whole(value) and 0 < value <= LARGEST)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
MAPPING = mapping_of(ANY)
NON_FINITE = ("NaN", "Infinity", "-Infinity")
SHARE = Kind(
    "a number between 0 and 1", lambda value: value in NON_FINITE if _is_text(value) else _is_number(value) and 0 <= value <= 1
)
SCORE = Kind("a number", lambda value: value in NON_FINITE if _is_text(value) else _is_number(value))
PROCESS = Kind("the id of a process", lambda value: _is_whole(value) and 0 <= value < 1 << 31)
PLAIN = Kind("text or a number", lambda value: isinstance(value, str | int | float))

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
    **dict.fromkeys(("fingerprint", "initial_verdict"), MAPPING),
    "contradictions": list_of(TEXT),
    "test_correct_by_class": list_of(COUNT),
}

_ARM = {"id": TEXT, "levels": mapping_of(TEXT), "overrides": list_of(TEXT), "tuned": TEXT, "data": TEXT}
_RUN = {"identity": TEXT, "arm": TEXT, "folder": TEXT, "overrides": list_of(TEXT), "plan": WHOLE, "tries": TEXT}
_DROPPED = {"overrides": list_of(TEXT), "reason": TEXT}
_POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and 0 < value < math.inf)

_OPTIONAL = frozenset({"tuned", "data", "plan", "margin", "difference", "low", "high", "tries", "score"})
_LEVELS = mapping_of(list_of(TEXT))
_PLAN = {
    **dict.fromkeys(("when", "design", "baseline"), TEXT),
    **dict.fromkeys(("command", "tune"), list_of(TEXT)),
    **dict.fromkeys(("axes", "seeds"), _LEVELS),
    **dict.fromkeys(("arms", "runs"), WHOLE),
}
_STANDING = Kind("final, interim or exploratory", lambda value: value in ("final", "interim", "exploratory"))
_LOOK = {
    **dict.fromkeys(("when", "metric"), TEXT),
    "standing": _STANDING,
    "plans": WHOLE,
    "closes": FLAG,
    "runs": mapping_of(WHOLE),
    "level": SHARE,
}


_FINITE = Kind("a finite number", lambda value: _is_number(value) and math.isfinite(value))
_LOOKS = {
    **dict.fromkeys(("axis", "metric"), TEXT),
    "seeds": list_of(TEXT),
    "arms": Kind("the names of two arms or more", lambda value: list_of(TEXT).holds(value) and len(value) > 1),
    "looks": Kind("rising numbers of seeds", are_looks),
    "stops": FLAG,
    "margin": _POSITIVE,
}
_DECISION = {
    **dict.fromkeys(("look", "seeds"), Kind("a whole number above 0", lambda value: _is_whole(value) and value > 0)),
    "verdict": Kind("a decision", lambda value: value in ("different", "equivalent", "not_comparable", "undecided", "open")),
    "level": Kind("a number between 0 and 1", lambda value: _is_number(value) and 0 <= value <= 1),
    **dict.fromkeys(("difference", "low", "high"), _FINITE),
    "note": TEXT,
}


def _record(fields: Mapping[str, Kind]) -> Kind:
    """Return the kind of a mapping with these fields, of which earlier versions lack the optional ones."""

    def holds(value: Any) -> bool:
        required = fields.keys() - _OPTIONAL
        return isinstance(value, dict) and not any(value.get(key) is None for key in required) and not _wrong(value, fields)

    return Kind(f"a mapping with {', '.join(fields)}", holds)


def _records(fields: Mapping[str, Kind]) -> Kind:
    return list_of(_record(fields))


_PART = Kind("a number above 0, at most 1", lambda value: _is_number(value) and 0 < value <= 1)
_TRIED = {
    "setting": mapping_of(TEXT),
    "score": Kind("a number", _is_number),
    **dict.fromkeys(("runs", "diverged", "failed"), COUNT),
}
_CHOICE = {"arm": TEXT, "setting": mapping_of(TEXT), "tried": _records(_TRIED), "when": TEXT}
_TUNING = {"seeds": list_of(WHOLE), "epochs": _PART, "extend": COUNT}

MANIFEST: Mapping[str, Kind] = {
    "command": list_of(TEXT),
    **dict.fromkeys(("design", "baseline", "study", "metric"), TEXT),
    **dict.fromkeys(("axes", "seeds"), _LEVELS),
    "arms": _records(_ARM),
    "runs": _records(_RUN),
    "dropped": _records(_DROPPED),
    "zipped": list_of(list_of(TEXT)),
    **dict.fromkeys(("notes", "tune"), list_of(TEXT)),
    "smallest_effect": _POSITIVE,
    "first_batches": mapping_of(TEXT),
    "planned_looks": _record(_LOOKS),
    "decisions": mapping_of(_record(_DECISION)),
    "plans": _records(_PLAN),
    "looks": _records(_LOOK),
    "tuning": _record(_TUNING),
    "choices": mapping_of(_record(_CHOICE)),
    "identity_version": WHOLE,
}

_SPLIT = {"images": WHOLE, "counts": list_of(WHOLE), "contents": list_of(TEXT), "order": TEXT}


def _is_split(value: Any) -> bool:
    return isinstance(value, dict) and {"images", "counts"} <= value.keys() and not _wrong(value, _SPLIT)


DATA: Mapping[str, Kind] = {"classes": list_of(TEXT), "splits": mapping_of(Kind("what a split holds", _is_split))}

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
    LOCK_FILE: _Format(HOLDER, SMALL_FILE, ("pid", "host", "since")),
}


def read_stored(folder: Path, name: str) -> dict[str, Any]:
    """Return the checked content of a file of JSON in a run or sweep folder. OSError, or MalformedError (a ValueError)."""
    kind = _FORMATS[name]
    content = parse_json(Folder(folder).read(name, kind.limit), name)
    if isinstance(content, dict):
        for key in kind.dispensable & content.keys():
            if _wrong({key: content[key]}, {key: kind.kinds[key]}):
                content[key] = "NaN" if kind.kinds[key] in (SHARE, SCORE, COUNT) else None
    needed = {key: field for key, field in kind.kinds.items() if key not in kind.dispensable}
    return checked(content, needed, name, kind.required)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checked content of config.yaml: a mapping whose seeds are whole numbers. Errors as of `read_stored`.

    A seed is a text with `${` if the run failed before that was resolved.
    """
    content = checked(config_of(_text(folder, CONFIG_FILE)) or {}, _CONFIG, CONFIG_FILE)
    if len(flatten(content)) > MOST_SETTINGS:
        raise MalformedError(f"{CONFIG_FILE} holds more than {MOST_SETTINGS:,} settings")
    return content


def _text(folder: Path, name: str) -> str:
    """Return the text of a file of YAML."""
    try:
        return Folder(folder).read(name, SMALL_FILE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{name} is not valid YAML (UnicodeDecodeError: {error})") from None


_SEED = Kind("a whole number", lambda value: _is_whole(value) or (_is_text(value) and "${" in value))
_CONFIG: Mapping[str, Kind] = {"seed": _SEED, "seeds": mapping_of(_SEED)}


def read_overrides(folder: Path) -> tuple[str, ...]:
    """Return the overrides in overrides.yaml. Errors as of `read_stored`."""
    content = overrides_of(_text(folder, OVERRIDES_FILE))
    if content is not None and not OVERRIDES.holds(content):
        raise MalformedError(f"{OVERRIDES_FILE} should be {OVERRIDES.words}, not {shown(content)}")
    return tuple(map(str, content or ()))


def _wrong(content: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """Return the first field that does not hold what it should, empty without one."""
    return next((key for key, kind in kinds.items() if content.get(key) is not None and not kind.holds(content[key])), "")


def checked(content: Any, kinds: Mapping[str, Kind], name: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the content of a file, a mapping. MalformedError names the first field that is not of its kind, or is missing."""
    if not isinstance(content, dict) or not all(map(_is_text, content)):
        raise MalformedError(f"{name} holds no mapping")
    if missing := [key for key in required if content.get(key) is None]:
        raise MalformedError(f"{name} has no {missing[0]!r}")
    if key := _wrong(content, kinds):
        raise MalformedError(f"{name}: {key!r} should be {kinds[key].words}, not {shown(content[key])}")
    return content


def shown(value: Any) -> str:
    """Return a stored value in short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
