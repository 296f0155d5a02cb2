"""Images in folders that a trained model is tried on: those of one split, without a training split beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from train.data.contracts import Files
from train.data.image_folder import CentreFraming, ImageFolder, Reading
from train.data.jpeg import refuse_missing
from train.data.listing import counted, files_of, scan
from train.errors import UsageError


def has_training_images(root: str) -> bool:
    """Return whether a folder has the layout that `image_folder` reads."""
    return (Path(root).expanduser() / "train").is_dir()


def new_images(root: str, size: int = 224, short_side: int = 256, **how: Any) -> ImageFolder:
    """Return the images under `root/test/<class>/`, else `root/val/<class>/`, else `root/<class>/`, as the test split.

    The settings are those of `image_folder`, which have been checked. UsageError as there; one class is enough.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UsageError(f"data.root={root}: there is no such folder ({folder.absolute()}). Name one with <class>/ folders.")
    chosen = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), folder)
    reading = Reading(**how)
    refuse_missing(reading.decoder)
    left_out: Counter[str] = Counter()
    try:
        found = scan(chosen, left_out)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.") from error
    notes = (f"left out of {chosen}: {', '.join(counted(left_out))}",) if left_out else ()
    files = {"train": Files((), torch.empty(0, dtype=torch.int64)), "test": files_of(found)}
    return ImageFolder(files, tuple(found), CentreFraming(short_side, size), reading, notes)
