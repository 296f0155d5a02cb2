"""train.log: the messages of Python's `logging` during a run."""

from __future__ import annotations

import logging
import sys
from io import BufferedWriter, TextIOWrapper
from pathlib import Path

from train.escape import terminal
from train.store.files import LOG_FILE
from train.store.inside import Folder
from train.streams import say_error


class LogFile(logging.FileHandler):
    """A log file that is only a view: on a disk error it warns once on standard error and then stays silent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOG_FILE, encoding="utf-8", errors="backslashreplace", delay=True)
        self._folder = Folder(folder)
        self._off = False

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(BufferedWriter(self._folder.append(LOG_FILE)), encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        if self._off:
            return
        try:
            super().emit(record)
        except OSError:  # raised by opening the file; other errors reach `handleError`
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._off:
            self._off = True
            say_error("train", f"{LOG_FILE}: disabled after an error ({error.strerror}). The run continues without it.")

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self._off = True


class LogFormatter(logging.Formatter):
    """Formats a message with all its characters shown, as a log is read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal(super().format(record))


def log_file(folder: Path) -> logging.Handler:
    """Return a handler that appends to `train.log` in the run folder. The caller must remove it from its logger and close it."""
    handler = LogFile(folder)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
