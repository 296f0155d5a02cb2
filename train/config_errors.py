"""Turns Hydra's and OmegaConf's complaints into one message that names the option, the value and the remedy."""

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


LACKS_PACKAGE = re.compile(r"In '(?P<group>hydra/[^']+)/(?P<choice>[^'/]+)': Could not load")
NEEDS = re.compile(r"^#.*(?P<command>pip install \S+)", re.MULTILINE)
"""In the comment at the head of a choice that builds on another package."""


def explain(error: Exception, config_dir: Path, arguments: Sequence[str]) -> str:
    """The message for an error raised while the configuration of a command with `arguments` was composed."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return unknown_choice(error)
    if (found := LACKS_PACKAGE.search(str(error))) and (needs := _needs(config_dir, **found.groupdict())):
        return f"{found['group']}={found['choice']}: this needs a package that is not installed. {needs} brings it."
    if isinstance(error, OverrideParseException):
        remedy = "Quote values that hold commas, spaces, brackets or quotes, as in 'key=\"a b\"'."
        return f"cannot read the override '{error.override}'. {remedy}"
    match = COULD_NOT_OVERRIDE.search(str(error))
    if match:
        return unknown_key(match["key"], config_dir, arguments)
    return plain_message(error)


def unknown_choice(error: MissingConfigException) -> str:
    """`init=xavir`: the group exists, the choice does not."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in error.options or () if not option.startswith("_")]
    if not group:
        return plain_message(error)
    near = difflib.get_close_matches(choice, options, n=1, cutoff=0.6)
    hint = f"Did you mean {group}={near[0]}? " if near else ""
    return f"{group}={choice}: there is no such choice. {hint}Known: {', '.join(sorted(options))}."


def unknown_key(key: str, config_dir: Path, arguments: Sequence[str]) -> str:
    """`optimizer.lrr=1`: suggests the nearest key of the configuration that the remaining arguments give; `norm=batch
    norm.groups=4`: the choices that have it."""
    known = [name for name in known_keys(config_dir, [a for a in arguments if not is_override_of(a, key)]) if name != key]
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if having := choices_having(key, config_dir):
        own = [name for name in siblings if not name.endswith("._target_")]
        hint = f" Of the chosen one: {', '.join(own)}." if own else ""
        return f"{key}: the chosen {parent} has no such key. It belongs to {', '.join(having)}.{hint}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"{key}: there is no such key. Did you mean '{near[0]}'?"
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_leaf:
        return f"{key}: there is no such key. Did you mean '{same_leaf[0]}'?"
    return f"{key}: there is no such key. {did_you_mean(key, siblings or [name for name in known if '.' not in name])}"


def choices_having(key: str, config_dir: Path) -> list[str]:
    """`norm.groups`: `norm=group`."""
    group, _, name = key.rpartition(".")
    written = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    files = sorted((config_dir / group).glob("*.yaml")) if group else []
    return [f"{group}={file.stem}" for file in files if written.search(file.read_text(encoding="utf-8"))]


def known_keys(config_dir: Path, arguments: Sequence[str]) -> list[str]:
    """Every dotted key of the configuration composed from those of `arguments` that compose, the groups included."""
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
    """Hydra's own words and their cause, on as few lines as they need."""
    parts: list[Any] = [error]
    if error.__cause__ is not None:
        parts.append(error.__cause__)
    lines = [line.strip() for part in parts for line in str(part).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key"))]
    return " ".join(kept) or type(error).__name__


def _needs(config_dir: Path, group: str, choice: str) -> str | None:
    """The command that installs what a choice of ours builds on, where its comment says so."""
    try:
        found = NEEDS.search((config_dir / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found["command"] if found else None
