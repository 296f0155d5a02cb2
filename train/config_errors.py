"""Translation of Hydra's and OmegaConf's errors into one message that names the option, the value and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from train.errors import did_you_mean

COULD_NOT_OVERRIDE = re.compile(r"Could not override '(?P<key>[^']+)'")


MISSING_PACKAGE = re.compile(r"In '(?P<group>hydra/[^']+)/(?P<choice>[^'/]+)': Could not load")
INSTALL_COMMAND = re.compile(r"^#.*(?P<command>pip install \S+)", re.MULTILINE)
"""Matches the first comment of a choice that depends on an optional package."""


def explain(error: Exception, config_dir: Path, arguments: Sequence[str]) -> str:
    """Return the message for an error raised while composing the configuration of a command with `arguments`."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return unknown_choice(error)
    if (choice := MISSING_PACKAGE.search(str(error))) and (command := _install_command(config_dir, **choice.groupdict())):
        return f"{choice['group']}={choice['choice']}: this needs a package that is not installed. Install it: {command}"
    if isinstance(error, OverrideParseException):
        remedy = "Quote values that contain commas, spaces, brackets or quotes, as in 'key=\"a b\"'."
        return f"cannot read the override '{error.override}'. {remedy}"
    match = COULD_NOT_OVERRIDE.search(str(error))
    if match:
        return unknown_key(match["key"], config_dir, arguments)
    return plain_message(error)


def unknown_choice(error: MissingConfigException) -> str:
    """Explain a choice that does not exist in an existing group, such as `init=xavir`."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in error.options or () if not option.startswith("_")]
    if not group:
        return plain_message(error)
    nearest = difflib.get_close_matches(choice, options, n=1, cutoff=0.6)
    hint = f"Did you mean {group}={nearest[0]}? " if nearest else ""
    return f"{group}={choice}: there is no such choice. {hint}Known: {', '.join(sorted(options))}."


def unknown_key(key: str, config_dir: Path, arguments: Sequence[str]) -> str:
    """Explain a key that does not exist, and name a remedy.

    For `optimizer.lrr=1` it is the nearest key of the configuration that the other arguments compose; for `norm=batch
    norm.groups=4` it is the list of choices that have the key.
    """
    keys = [name for name in known_keys(config_dir, [a for a in arguments if not is_override_of(a, key)]) if name != key]
    parent = key.rpartition(".")[0]
    keys = [name for name in keys if name != parent]  # it is right as typed
    siblings = [name for name in keys if name.rpartition(".")[0] == parent]
    if choices := choices_with_key(key, config_dir):
        available = [name for name in siblings if not name.endswith("._target_")]
        hint = f" The chosen {parent} has: {', '.join(available)}." if available else ""
        return f"{key}: the chosen {parent} has no such key. It belongs to {', '.join(choices)}.{hint}"
    nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if nearest:
        return f"{key}: there is no such key. Did you mean '{nearest[0]}'?"
    same_leaf = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_leaf:
        return f"{key}: there is no such key. Did you mean '{same_leaf[0]}'?"
    return f"{key}: there is no such key. {did_you_mean(key, siblings or [name for name in keys if '.' not in name])}"


def choices_with_key(key: str, config_dir: Path) -> list[str]:
    """Return the choices whose YAML sets the key, such as `norm=group` for `norm.groups`."""
    group, _, name = key.rpartition(".")
    line = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    files = sorted((config_dir / group).glob("*.yaml")) if group else []
    return [f"{group}={file.stem}" for file in files if line.search(file.read_text(encoding="utf-8"))]


def known_keys(config_dir: Path, arguments: Sequence[str]) -> list[str]:
    """Return every dotted key of the configuration, groups included. It is composed from `arguments`, or without if they fail."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    overrides = [a for a in arguments if re.match(r"^[+~]*[\w./@-]+=", a) and not a.startswith("-")]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        for attempt in (overrides, []):
            try:
                return list(walk(compose("config", overrides=attempt)))
            except (HydraException, ValueError):
                continue
    return []


def walk(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in node:
        key = f"{prefix}{name}"
        yield key
        if OmegaConf.is_dict(node._get_node(str(name))):
            yield from walk(node._get_node(str(name)), f"{key}.")  # type: ignore[arg-type]


def is_override_of(argument: str, key: str) -> bool:
    return argument.lstrip("+~").split("=", 1)[0] == key


def plain_message(error: Exception) -> str:
    """Return Hydra's own message and that of its cause on one line."""
    parts: list[Any] = [error]
    if error.__cause__ is not None:
        parts.append(error.__cause__)
    lines = [line.strip() for part in parts for line in str(part).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key"))]
    return " ".join(kept) or type(error).__name__


def _install_command(config_dir: Path, group: str, choice: str) -> str | None:
    """Return the command that installs the package that a choice depends on, if the comment in its YAML names one."""
    try:
        match = INSTALL_COMMAND.search((config_dir / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    except OSError:
        return None
    return match["command"] if match else None
