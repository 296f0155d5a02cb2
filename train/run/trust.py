"""The packages that a `_target_` in a configuration may call, and those that the command line adds to them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from train.command import config_folders
from train.errors import UsageError
from train.store.overrides import key_of

ALLOWED_PACKAGES = ("train.parts", "train.data", "torch.nn", "torch.optim", "torchvision.models", "torchvision.ops")
"""Packages whose functions a `_target_` may name without `trust`. Nothing in them runs commands or foreign code. That is
not true of all of torch."""

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())
"""What `set_trusted` set in this process. Another thread has trusted nobody until it says so itself."""

_HYDRA_PACKAGES = ("hydra", "hydra_plugins")


def trusted_packages(named: Any, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the packages that `trust` names. UsageError when a file names them instead of the command line.

    `named`: the value of `trust` in the configuration; `overrides`: as typed.
    """
    packages = (named,) if isinstance(named, str) else tuple(map(str, named or ()))
    if packages and not any(key_of(override) == "trust" for override in overrides):
        raise UsageError(f"trust={','.join(packages)}: a file asks to be trusted. Set trust on the command line only.")
    return packages


def set_trusted(packages: Sequence[str]) -> None:
    """Let configurations call the functions of `packages`, from now on and instead of those of an earlier call.

    Every job calls it, also with none: several may run in one process, and none inherits the trust of the one before it.
    """
    _trusted.set(tuple(packages))


def trusted() -> tuple[str, ...]:
    """Return the packages that the command line trusts, to hand them on to another process."""
    return _trusted.get()


def is_allowed(path: str, packages: Collection[str]) -> bool:
    """Return whether a dotted path lies in `packages`, or in a package whose functions may always be called."""
    return any(path == package or path.startswith(f"{package}.") for package in (*ALLOWED_PACKAGES, *packages))


def refuse_hydra_calls(arguments: Sequence[str]) -> None:
    """Raise UsageError for untrusted targets in config folders of the command line that change Hydra's own settings.

    Hydra calls the targets in its own settings before this program can check them.
    """
    trust = [name for a in arguments if a.startswith("trust=") for name in a.partition("=")[2].strip("[]'\"").split(",")]
    for folder in config_folders(arguments):
        files = {path: _content(path) for path in sorted(folder.rglob("*.yaml"))} if folder.is_dir() else {}
        if not any("hydra" in text or "hydra" in str(content) for text, content in files.values()):
            continue
        for path, (_, content) in files.items():
            for target in _targets(content):
                if not is_allowed(target, [*_HYDRA_PACKAGES, *(name.strip() for name in trust)]):
                    raise UsageError(
                        f"{path}: _target_={target} is outside the trusted packages, and its config folder changes Hydra's own "
                        f"settings. If you trust this code, add trust={target.partition('.')[0]} to the command line."
                    )


def _content(path: Path) -> tuple[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # Hydra reports the error if the file is used
        return "", None


def _targets(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "_target_":
                yield str(value)
            yield from _targets(value)
    elif isinstance(content, list):
        for value in content:
            yield from _targets(value)
