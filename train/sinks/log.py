"""train.log: what Python's `logging` says during a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

FILE_NAME = "train.log"


class LogFile(logging.FileHandler):
    """A view: when the disk does not take it, it says so once on standard error and is silent from there on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._off = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._off:
            return
        try:
            super().emit(record)
        except OSError:  # of opening the file; others reach `handleError`
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._off:
            self._off = True
            print(f"train: {FILE_NAME} is off from here on ({error.strerror}); the run goes on without it.", file=sys.stderr)

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self._off = True


def log_file(folder: Path) -> logging.Handler:
    """A handler that appends to `train.log` in the run folder. Whoever adds it to a logger removes and closes it."""
    handler = LogFile(folder / FILE_NAME)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
