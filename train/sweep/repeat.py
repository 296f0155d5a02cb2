"""The folder of a sweep that is repeated."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, open_dict

from train.command import override
from train.errors import UsageError
from train.store.files import MANIFEST_FILE


def newest_sweep(parent: Path) -> Path:
    """Return the sweep folder in `parent` whose plan was written last. UsageError when there is none."""
    plans = sorted(parent.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime)
    if not plans:
        remedy = "Omit it to start a new sweep, or name a sweep with hydra.sweep.dir=FOLDER."
        raise UsageError(f"sweep.resume=last: there is no sweep in {parent}. {remedy}")
    return plans[-1].parent


def set_sweep_dir(master: DictConfig, folder: Path) -> None:
    """Set the sweep's folder for the launcher and for every job composed from `master` later, in any process."""
    with open_dict(master):
        master.hydra.sweep.dir = str(folder)
        other_overrides = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.sweep.dir=")]
        master.hydra.overrides.hydra = [*other_overrides, override("hydra.sweep.dir", str(folder))]
