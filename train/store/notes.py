"""What a person says of a run or a sweep, in its folder: a note, tags, and whether it is archived.

What is archived stays where it is. Lists and pages of the folders above it leave it out; named itself, it is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.store.files import NOTES_FILE, encode_json
from train.store.inside import Folder
from train.store.stored import read_stored


@dataclass(frozen=True)
class Notes:
    """What was said. `tags`: in the order in which they were given."""

    note: str = ""
    tags: tuple[str, ...] = ()
    archived: bool = False


def read_notes(folder: Path) -> Notes:
    """Return what was said of the run or sweep in a folder. OSError or ValueError for a file that cannot be read."""
    try:
        content = read_stored(folder, NOTES_FILE)
    except FileNotFoundError:
        return Notes()
    return Notes(content.get("note") or "", tuple(content.get("tags") or ()), bool(content.get("archived")))


def notes_of(folder: Path) -> Notes:
    """Return the same as `read_notes`; nothing for a file that cannot be read."""
    try:
        return read_notes(folder)
    except (OSError, ValueError):
        return Notes()


def is_archived(folder: Path) -> bool:
    """Return whether the run or sweep in a folder is archived."""
    return notes_of(folder).archived


def write_notes(folder: Path, notes: Notes) -> None:
    """Replace what was said; the file goes when nothing is left. OSError when the folder cannot be written."""
    if notes == Notes():
        Folder(folder).remove(NOTES_FILE)
        return
    Folder(folder).write(NOTES_FILE, encode_json({"note": notes.note, "tags": list(notes.tags), "archived": notes.archived}))
