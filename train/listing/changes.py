"""What is said of runs and sweeps: `train-runs note`, `tag`, `untag`, `archive` and `unarchive`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from train.errors import UsageError, remedy
from train.escape import line
from train.store.files import MANIFEST_FILE, STATUS_FILE
from train.store.inside import is_there
from train.store.notes import Notes, read_notes, write_notes
from train.store.run import find_runs
from train.streams import say

_BELOW = Path("outputs")
_MOST = 8
_LONGEST = 2_000


def change(command: str, asked: argparse.Namespace) -> int:
    """Change what is said of the runs and sweeps that are named; return the exit code."""
    for folder in [named(text) for text in asked.runs]:
        try:
            before = read_notes(folder)
            after = _changed(command, asked, before, folder)
            write_notes(folder, after)
        except OSError as error:
            raise UsageError(f"{folder}: what is said of it cannot be kept ({error.strerror}).{remedy(error)}") from None
        except ValueError as error:
            raise UsageError(f"{folder}: {error}. Repair or remove that file.") from None
        say(line(f"{folder}: {_text(after)}"))
    return 0


def _changed(command: str, asked: argparse.Namespace, notes: Notes, folder: Path) -> Notes:
    if command == "note":
        if len(asked.text) > _LONGEST:
            raise UsageError(f"note: a text of {len(asked.text):,} characters is no note. Use at most {_LONGEST:,}.")
        return replace(notes, note=" ".join(asked.text.split()))
    if command in ("tag", "untag"):
        return replace(notes, tags=tuple(_tags(command, asked.tags, notes)))
    if command == "archive" and is_there(folder.parent / MANIFEST_FILE) and not is_there(folder / MANIFEST_FILE):
        sweep = folder.parent
        raise UsageError(f"archive {folder}: this run is one of the comparison in {sweep}. Archive the sweep: {sweep}")
    return replace(notes, archived=command == "archive")


def _tags(command: str, typed: list[str], notes: Notes) -> list[str]:
    tags = [tag.strip().removeprefix("#") for tag in typed]
    for tag in tags:
        if not tag or not tag.isprintable() or any(mark in tag for mark in " ,"):
            raise UsageError(f"{command} {tag!r}: a tag is one word without commas.")
        if command == "untag" and tag not in notes.tags:
            raise UsageError(f"untag {tag}: there is no such tag. The tags are: {', '.join(notes.tags) or 'none'}.")
    if command == "untag":
        return [tag for tag in notes.tags if tag not in tags]
    return [*dict.fromkeys((*notes.tags, *tags))]


def _text(notes: Notes) -> str:
    parts = [" ".join(f"#{tag}" for tag in notes.tags), notes.note, "archived" if notes.archived else ""]
    return "; ".join(filter(None, parts)) or "nothing is said of it"


def named(text: str) -> Path:
    """Return the folder of the run or sweep that a text names: a folder, or a part of the name of one below outputs."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        if _is_entry(folder):
            return folder
        raise UsageError(f"{folder}: this folder is neither a run nor a sweep. Name one of those in it.")
    matching = [path for path in dict.fromkeys(_entries()) if text in path.name]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise UsageError(f"{text}: there is no such folder, and no run or sweep below {_BELOW} has this in its name.")
    listed = "\n".join(map(str, matching[:_MOST])) + ("\n..." if len(matching) > _MOST else "")
    raise UsageError(f"{text}: {len(matching)} folders have this in their names. Name one of them:\n{listed}")


def _is_entry(folder: Path) -> bool:
    return is_there(folder / STATUS_FILE) or is_there(folder / MANIFEST_FILE)


def _entries() -> Iterator[Path]:
    """Yield the folders of the runs and sweeps below outputs."""
    for path in find_runs([_BELOW], archived=True):
        yield path
        if is_there(path.parent / MANIFEST_FILE):
            yield path.parent
