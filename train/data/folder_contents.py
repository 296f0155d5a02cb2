"""What lies in the folders of images, kept in the user's cache: a folder that has not changed since is not listed again.

Adding, removing or renaming a file changes the times of its folder. What is in the files has no part in this; their hashes have
it. A folder that changed within the last seconds is not kept: clocks of file systems are coarse.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from train.data.file_hashes import SETTLED_S, user_cache

VERSION = 1

Stamp: TypeAlias = list[int]
"""Times of change and inode of a folder."""


@dataclass(frozen=True)
class FolderContent:
    """What lies directly in a folder: names of images and of folders, and the number of other files by kind."""

    images: list[str]
    folders: list[str]
    left_out: dict[str, int]


class FolderContents:
    """The content of the folders below `root`. `keep` writes what was found to the user's cache."""

    def __init__(self, root: Path) -> None:
        self._file = _cache_file(root)
        self._known = _read(self._file)
        self._found: dict[str, tuple[Stamp, FolderContent]] = {}
        self._began = time.time()

    def content(self, folder: str, listed: Callable[[str], FolderContent]) -> FolderContent:
        """Return what lies in a folder: what is known of it, or what `listed` returns. OSError when it cannot be read."""
        stamp = _stamp(folder)
        known = self._known.get(folder)
        if known is not None and known[0] == stamp:
            self._found[folder] = known
            return known[1]
        content = listed(folder)
        if _is_settled(stamp, self._began):
            self._found[folder] = stamp, content
        return content

    def keep(self) -> None:
        """Write what was found, if it is not known. A cache that cannot be written only costs time."""
        if self._file is None or self._found == self._known:
            return
        content = {folder: [stamp, asdict(found)] for folder, (stamp, found) in self._found.items()}
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"version": VERSION, "folders": content}))
            temporary.replace(self._file)


def _stamp(folder: str) -> Stamp:
    found = os.stat(folder)  # noqa: PTH116, a Path for each folder would double the time
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _is_settled(stamp: Stamp, began: float) -> bool:
    return max(stamp[0], stamp[1]) < (began - SETTLED_S) * 1e9


def _cache_file(root: Path) -> Path | None:
    """Return the file for what lies below a folder; None for a user without a home."""
    try:
        return user_cache() / "listings" / hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    except RuntimeError:
        return None


def _read(file: Path | None) -> dict[str, tuple[Stamp, FolderContent]]:
    """Return what the cache holds; nothing if it is not there or damaged."""
    try:
        content = json.loads(file.read_text()) if file else {}
        if content["version"] != VERSION:
            return {}
        return {folder: (stamp, FolderContent(**found)) for folder, (stamp, found) in content["folders"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
