"""Repeating a sweep: its folder, and the command that resumes it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from train.errors import UsageError
from train.store.files import MANIFEST_FILE

ONE_TIME_KEYS = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run", "sweep.rerun")
"""Keys of a command that the command repeating it omits."""


def newest_sweep(parent: Path) -> Path:
    """Return the sweep folder in `parent` whose plan was written last. UsageError when there is none."""
    plans = sorted(parent.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime)
    if not plans:
        remedy = "Omit it to start a new sweep, or name a sweep with hydra.sweep.dir=FOLDER."
        raise UsageError(f"sweep.resume=last: there is no sweep in {parent}. {remedy}")
    return plans[-1].parent


def set_sweep_dir(master: DictConfig, folder: Path) -> None:
    """Set the sweep's folder for the launcher and for every job composed from `master` later, in any process."""
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with open_dict(master):
        master.hydra.sweep.dir = str(folder)
        other_overrides = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.sweep.dir=")]
        master.hydra.overrides.hydra = [*other_overrides, f"hydra.sweep.dir='{text}'"]


def repeat_command(arguments: Sequence[str], folder: Path) -> str:
    """Return the shell command that repeats a sweep: `train -m norm=none,batch hydra.sweep.dir=outputs/...`."""
    kept = [argument for argument in arguments if argument.partition("=")[0] not in ONE_TIME_KEYS]
    overrides = [index for index, argument in enumerate(kept, 1) if "=" in argument and not argument.startswith("-")]
    last = max(overrides, default=len(kept))  # Hydra accepts overrides only if no flag separates them
    return shlex.join(["train", *kept[:last], f"hydra.sweep.dir={folder}", *kept[last:]])
