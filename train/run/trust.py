"""The packages that a `_target_` in a configuration may call, and those that the command line adds to them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from typing import Any

from train.errors import UsageError
from train.store.overrides import key_of

ALLOWED_PACKAGES = (
    "train.parts",
    *(f"train.data.{name}" for name in ("fashion_mini", "image_folder", "noise", "torchvision_sets")),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.ops"),
)
"""Packages and modules whose functions a `_target_` may name without `trust`. Nothing in them runs commands or foreign code. That
is not true of all of torch, and other modules of `train.data` write files."""

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())
"""What `set_trusted` set in this process. Another thread has trusted nobody until it says so itself."""


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
