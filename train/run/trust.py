"""Configurations from elsewhere: what their `_target_` may call. Starts without torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.errors import UsageError

ALLOWED_PACKAGES = ("train.parts", "train.data", "torch.nn", "torch.optim", "torchvision.models", "torchvision.ops")
"""Packages whose functions a `_target_` may name without being asked for: nothing in them runs commands or code from elsewhere,
which cannot be said of all of torch."""

_OF_HYDRA = ("hydra", "hydra_plugins")
_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def is_allowed(path: str, trust: Collection[str] = ()) -> bool:
    """Whether a dotted path lies in a package whose functions may be called."""
    return any(path == package or path.startswith(f"{package}.") for package in (*ALLOWED_PACKAGES, *trust))


def refuse_hydra_calls(arguments: Sequence[str]) -> None:
    """UsageError when a folder of configurations that the command line names reaches into Hydra's own settings, which Hydra calls
    before anything here can look at them, and names a function of a package that is not trusted."""
    trust = [name for a in arguments if a.startswith("trust=") for name in a.partition("=")[2].strip("[]'\"").split(",")]
    for folder in _folders(arguments):
        files = {path: _content(path) for path in sorted(folder.rglob("*.yaml"))} if folder.is_dir() else {}
        if not any("hydra" in text or "hydra" in str(content) for text, content in files.values()):
            continue
        for path, (_, content) in files.items():
            for target in _targets(content):
                if not is_allowed(target, [*_OF_HYDRA, *(name.strip() for name in trust)]):
                    raise UsageError(
                        f"{path}: _target_={target} is a function of a package that is not trusted, in a folder that changes "
                        f"Hydra's own settings. If you know this code and trust it: trust={target.partition('.')[0]}"
                    )


def _folders(arguments: Sequence[str]) -> Iterator[Path]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in _FLAGS:
            yield Path(value if equals else following)
        elif flag == "hydra.searchpath":
            for place in value.strip("[]").split(","):
                yield Path(place.strip("'\" ").removeprefix("file://"))


def _content(path: Path) -> tuple[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # Hydra will say what is wrong with it, if it is asked for
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
