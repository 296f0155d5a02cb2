"""Overrides as typed, such as `norm=batch` or `+trainer.max_steps=5`, and configurations as dotted keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def key_of(override: str) -> str:
    """`+trainer.max_steps=5` -> `trainer.max_steps`; without the package of `norm@here=batch`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def dotted_key(override: str) -> str:
    """Return the key of an override as a dotted key of the configuration, also that of a group such as `data/augment`."""
    return key_of(override).replace("/", ".")


def drop_groups(overrides: Iterable[str], rooms: Collection[str]) -> list[str]:
    """Those that set nothing in these rooms, the first parts of dotted keys."""
    return [override for override in overrides if key_of(override).partition(".")[0] not in rooms]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`. Lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat
