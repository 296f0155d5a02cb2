"""Overrides as typed, such as `norm=batch` or `+trainer.max_steps=5`, and configurations as dotted keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def key_of(override: str) -> str:
    """Return the key of an override: `+trainer.max_steps=5` -> `trainer.max_steps`, `norm@package=batch` -> `norm`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def dotted_key(override: str) -> str:
    """Return the key of an override as a dotted key of the configuration, also for a group such as `data/augment`."""
    return key_of(override).replace("/", ".")


def drop_groups(overrides: Iterable[str], groups: Collection[str]) -> list[str]:
    """Return the overrides whose keys do not begin with one of `groups`, the first parts of dotted keys."""
    return [override for override in overrides if key_of(override).partition(".")[0] not in groups]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: `{"a": {"b": 1}}` -> `{"a.b": 1}`. Lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def text(value: Any) -> str:
    """Format a configuration value as it would be typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
