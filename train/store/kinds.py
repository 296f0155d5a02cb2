"""Kinds of values: what a field of a stored file may hold, and the check of a whole file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from train.store.plain import MalformedError

LARGEST = 1e18
"""More than any number of steps, images, operations, bytes or seconds."""


@dataclass(frozen=True)
class Kind:
    """What a field may hold. `words`: for messages."""

    words: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def list_of(kind: Kind) -> Kind:
    return Kind(f"a list, each {kind.words}", lambda value: isinstance(value, list) and all(map(kind.holds, value)))


def mapping_of(kind: Kind) -> Kind:
    return Kind(
        f"a mapping of names, each to {kind.words}",
        lambda value: isinstance(value, dict) and all(map(is_text, value)) and all(map(kind.holds, value.values())),
    )


TEXT = Kind("text", is_text)
ANY = Kind("any value", lambda _: True)
WHOLE = Kind("a whole number", is_whole)
COUNT = Kind("a number of things", lambda value: is_number(value) and 0 <= value <= LARGEST)
POSITIVE = Kind("a whole number from 1 on", lambda value: is_whole(value) and 0 < value <= LARGEST)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
MAPPING = mapping_of(ANY)
NON_FINITE = ("NaN", "Infinity", "-Infinity")
SHARE = Kind(
    "a number between 0 and 1", lambda value: value in NON_FINITE if is_text(value) else is_number(value) and 0 <= value <= 1
)
SCORE = Kind("a number", lambda value: value in NON_FINITE if is_text(value) else is_number(value))
PROCESS = Kind("the id of a process", lambda value: is_whole(value) and 0 <= value < 1 << 31)
PLAIN = Kind("text or a number", lambda value: isinstance(value, str | int | float))


def wrong_field(content: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """Return the first field that does not hold what it should, empty without one."""
    return next((key for key, kind in kinds.items() if content.get(key) is not None and not kind.holds(content[key])), "")


def checked(content: Any, kinds: Mapping[str, Kind], name: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the content of a file, a mapping. MalformedError names the first field that is not of its kind, or is missing."""
    if not isinstance(content, dict) or not all(map(is_text, content)):
        raise MalformedError(f"{name} holds no mapping")
    if missing := [key for key in required if content.get(key) is None]:
        raise MalformedError(f"{name} has no {missing[0]!r}")
    if key := wrong_field(content, kinds):
        raise MalformedError(f"{name}: {key!r} should be {kinds[key].words}, not {shown(content[key])}")
    return content


def shown(value: Any) -> str:
    """Return a stored value in short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
