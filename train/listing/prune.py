"""`train-runs prune`: removes checkpoints and figures of runs that have ended, after saying what that would free."""

from __future__ import annotations

import argparse
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from train.errors import UsageError, remedy
from train.escape import line
from train.listing.found import find
from train.store.files import CHECKPOINTS_FOLDER, FIGURES_FOLDER
from train.store.inside import Folder
from train.store.lock import Lock, is_held
from train.store.run import Run
from train.store.where import conditions_of, select, why_none
from train.streams import say
from train.text import plural, size

_PATTERNS = {CHECKPOINTS_FOLDER: ("*.pt",), FIGURES_FOLDER: ("*.png", "*.svg")}
_ENDED = frozenset({"done", "diverged"})
_MOST = 5


@dataclass(frozen=True)
class Files:
    """Files of a run that would be removed, in one of its subfolders. `freed`: in bytes; a file with another name frees none."""

    run: Run
    folder: str
    names: tuple[str, ...]
    freed: int


def prune(asked: argparse.Namespace) -> int:
    """Remove what is asked for, once it is confirmed; return the exit code."""
    folders = [name for name, wanted in ((CHECKPOINTS_FOLDER, asked.checkpoints), (FIGURES_FOLDER, asked.figures)) if wanted]
    if not folders:
        raise UsageError("prune: say what to remove: --checkpoints, --figures, or both.")
    conditions = conditions_of(asked.where)
    found = find(asked.folders, archived=True)
    runs = select(found.runs, conditions)
    if not runs:
        raise UsageError(f"prune: {why_none(found.runs, conditions)}")
    files, kept = _candidates(runs, folders)
    _say_plan(files, kept)
    if not files:
        return 0
    if not asked.yes and not _confirmed():
        say("Nothing was removed.")
        return 0
    say(f"Removed: {size(sum(map(_remove, files)))}.")
    return 0


def _candidates(runs: list[Run], folders: list[str]) -> tuple[list[Files], dict[str, str]]:
    """Return the files that may be removed, and run -> why it keeps its own."""
    files: list[Files] = []
    kept: dict[str, str] = {}
    for run in runs:
        if reason := _why_kept(run):
            kept[str(run.folder)] = reason
            continue
        for name in folders:
            try:
                files += filter(lambda item: item.names, [_files(run, name)])
            except OSError as error:
                kept[str(run.folder / name)] = str(error.strerror)
    return files, kept


def _why_kept(run: Run) -> str:
    if run.state == "running" or is_held(run.folder):
        return "running"
    return "" if run.state in _ENDED else f"{run.state}: it could be resumed"


def _files(run: Run, folder: str) -> Files:
    entries = {
        name: found
        for name, found in (Folder(run.folder) / folder).entries().items()
        if stat.S_ISREG(found.st_mode) and any(fnmatchcase(name, pattern) for pattern in _PATTERNS[folder])
    }
    return Files(run, folder, tuple(sorted(entries)), sum(found.st_size for found in entries.values() if found.st_nlink == 1))


def _say_plan(files: list[Files], kept: dict[str, str]) -> None:
    freed: Counter[Path] = Counter()
    counts: Counter[str] = Counter()
    for item in files:
        freed[item.run.folder] += item.freed
        counts[item.folder] += len(item.names)
    what = " and ".join(f"{count:,} files of {folder}" for folder, count in counts.items())
    say(f"To remove: {what or 'nothing'}, {size(sum(freed.values()))} of {plural(len(freed), 'run')}.")
    for folder, share in freed.most_common(_MOST):
        say(f"  {line(str(folder))}: {size(share)}")
    if len(freed) > _MOST:
        say(f"  ... and {plural(len(freed) - _MOST, 'run')} more")
    for reason, count in Counter(kept.values()).most_common():
        example = next(run for run, why in kept.items() if why == reason)
        say(f"Kept, {line(reason)}: {plural(count, 'run')}, as {line(example)}")


def _confirmed() -> bool:
    """Ask whether to go on. UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError("prune: there is no terminal to ask in. Add --yes to remove them.")
    say("Remove them? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(files: Files) -> int:
    """Remove files and return the bytes that are freed; 0 for a run that somebody uses by now."""
    with _locked(files.run) as is_free:
        if not is_free:
            say(f"Kept, running: {line(str(files.run.folder))}")
            return 0
        folder = Folder(files.run.folder) / files.folder
        try:
            for name in files.names:
                folder.remove(name)
        except OSError as error:
            raise UsageError(f"{folder.path}: a file cannot be removed ({error.strerror}).{remedy(error)}") from None
    return files.freed


@contextmanager
def _locked(run: Run) -> Iterator[bool]:
    """Hold the lock of the run inside the block. False if another process holds it, or it cannot be locked."""
    lock = Lock(run.folder)
    try:
        is_free = lock.acquire() is None
    except OSError as error:
        raise UsageError(f"{run.folder}: this folder cannot be written ({error.strerror}).{remedy(error)}") from None
    try:
        yield is_free
    finally:
        lock.release()
