"""train.log: what Python's `logging` says during a run."""

from __future__ import annotations

import logging
from pathlib import Path

FILE_NAME = "train.log"


def log_file(folder: Path) -> logging.Handler:
    """A handler that appends to `train.log` in the run folder. Whoever adds it to a logger removes and closes it."""
    handler = logging.FileHandler(folder / FILE_NAME, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
