"""The packages that a `_target_` in a configuration may call. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.errors import UsageError

ALLOWED_PACKAGES = ("train.parts", "train.data", "torch.nn", "torch.optim", "torchvision.models", "torchvision.ops")
"""Packages whose functions a `_target_` may name without `trust`. Nothing in them runs commands or foreign code. That is
not true of all of torch."""

_HYDRA_PACKAGES = ("hydra", "hydra_plugins")
_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def is_allowed(path: str, trust: Collection[str] = ()) -> bool:
    """Return whether a dotted path lies in a package whose functions may be called."""
    return any(path == package or path.startswith(f"{package}.") for package in (*ALLOWED_PACKAGES, *trust))


def refuse_hydra_calls(arguments: Sequence[str]) -> None:
    """Raise UsageError for untrusted targets in config folders of the command line that change Hydra's own settings.

    Hydra calls the targets in its own settings before this program can check them.
    """
    trust = [name for a in arguments if a.startswith("trust=") for name in a.partition("=")[2].strip("[]'\"").split(",")]
    for folder in _folders(arguments):
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


def _folders(arguments: Sequence[str]) -> Iterator[Path]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in _FLAGS:
            yield Path(value if equals else following)
        elif flag == "hydra.searchpath":
            for entry in value.strip("[]").split(","):
                yield Path(entry.strip("'\" ").removeprefix("file://"))


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
