"""The same sweep once more: which folder it lies in, and the command that goes on with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from train.errors import UsageError
from train.store.manifest import FILE_NAME

ONE_TIME_KEYS = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run", "sweep.rerun")
"""Keys of a command that do not belong into the one that repeats it."""


def newest_sweep(parent: Path) -> Path:
    """The sweep in `parent` whose plan was written last. UsageError where there is none."""
    plans = sorted(parent.glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    if not plans:
        remedy = "Leave it out to begin one, or name one: hydra.sweep.dir=FOLDER."
        raise UsageError(f"sweep.resume=last: there is no sweep in {parent}. {remedy}")
    return plans[-1].parent


def set_sweep_dir(master: DictConfig, folder: Path) -> None:
    """Make `folder` the sweep's, for the launcher and for every job that is composed from `master` later, in any process."""
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with open_dict(master):
        master.hydra.sweep.dir = str(folder)
        kept = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.sweep.dir=")]
        master.hydra.overrides.hydra = [*kept, f"hydra.sweep.dir='{text}'"]


def repeat_command(arguments: Sequence[str], folder: Path) -> str:
    """For the shell: `train -m norm=none,batch hydra.sweep.dir=outputs/...`."""
    kept = [argument for argument in arguments if argument.partition("=")[0] not in ONE_TIME_KEYS]
    overrides = [place for place, argument in enumerate(kept, 1) if "=" in argument and not argument.startswith("-")]
    after = max(overrides, default=len(kept))  # Hydra takes overrides only where no flag stands between them
    return shlex.join(["train", *kept[:after], f"hydra.sweep.dir={folder}", *kept[after:]])
