"""What in a run folder cannot be continued: links, pipes, and files that have another name elsewhere."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from train.errors import UsageError
from train.store.files import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    CONSOLE_LOG,
    DATA_FILE,
    EVENT_FILES,
    FIGURES_FOLDER,
    LOCK_FILE,
    LOG_FILE,
    METRICS_FILE,
    OVERRIDES_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
    WEIGHTS_FILE,
)
from train.store.inside import Folder

_READ = (STATUS_FILE, CONFIG_FILE, OVERRIDES_FILE, DATA_FILE, SUMMARY_FILE, WEIGHTS_FILE)
_CONTINUED = (METRICS_FILE, LOG_FILE, CONSOLE_LOG, LOCK_FILE)
_FOLDERS = (CHECKPOINTS_FOLDER, FIGURES_FOLDER)


def strange_files(path: Path) -> str:
    """Return the first file of the run folder that would be refused, and why; empty without one. Nothing is opened."""
    folder = Folder(path)
    try:
        names = [name for name in folder.names() if name in _READ or fnmatchcase(name, EVENT_FILES)]
        problems = [(name, folder.problem(name)) for name in names]
        problems += [(name, folder.problem(name, in_place=True)) for name in _CONTINUED]
        problems += [(name, folder.problem_of_subfolder(name)) for name in _FOLDERS]
        if not any(reason for _, reason in problems):
            entries = [(inner, name) for inner in _FOLDERS for name in (folder / inner).names()]
            problems = [(f"{inner}/{name}", (folder / inner).problem(name)) for inner, name in entries]
    except OSError as error:
        return str(error.strerror)
    return next((f"{name} {reason}" for name, reason in problems if reason), "")


def refuse_strange_files(path: Path) -> None:
    """Raise UsageError for a run folder that holds a link where the run would read or write, or anything else but its files."""
    if problem := strange_files(path):
        raise UsageError(f"resume={path}: {problem}. Replace it by a file, or remove it.")
