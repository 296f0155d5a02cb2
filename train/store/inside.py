"""The only door to the files of run and sweep folders, which may be of somebody else: nothing in them is followed out of them.

The folder that the user names may be reached through links. Below it every component is opened relative to the one above and no
link is followed, only regular files are opened, sizes are bounded before reading, and new files are created exclusively, under
names that nobody can foresee. The fallback for systems without `dir_fd` checks the same by path.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

_HAS_DESCRIPTORS = {os.open, os.stat, os.unlink, os.rename, os.link, os.mkdir, os.rmdir} <= os.supports_dir_fd
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Without O_NONBLOCK, to open a named pipe would wait for somebody who opens its other end."""
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

_GROWTH = 1 << 20
"""Bytes that are read at a time of a file that grows meanwhile."""

LINK = "is a link, and nothing in a run folder is reached through links"


class RefusedError(OSError):
    """What a name in a folder stands for is not opened: a link, a pipe, a device, too large a file. Its text says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.ELOOP, f"{path.name} {reason}", str(path))

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Folder:
    """A folder whose entries are reached without following a link. Nothing stays open between two calls.

    `top`: as the user named it, possibly a link; `below`: the names of subfolders on the way from there, none of them a link.
    Every method raises OSError, of which `RefusedError` is a kind. A name is one component of a path.
    """

    top: Path
    below: tuple[str, ...] = ()

    def __truediv__(self, name: str) -> Folder:
        """Return the subfolder `name`, which need not exist."""
        return Folder(self.top, (*self.below, name))

    @property
    def path(self) -> Path:
        """The path, for messages."""
        return self.top.joinpath(*self.below)

    def names(self) -> list[str]:
        """Return the names of all entries, sorted; empty if there is no such folder."""
        try:
            with self._entered() as at:
                return sorted(os.listdir(at.folder if at.descriptor is None else at.descriptor))  # noqa: PTH208, a descriptor
        except FileNotFoundError:
            return []

    def subfolders(self) -> list[str]:
        """Return the names of the subfolders that are no links, sorted."""
        with self._entered() as at, os.scandir(at.folder if at.descriptor is None else at.descriptor) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def entries(self) -> dict[str, os.stat_result]:
        """Return the name of every entry and what `stat` says of it; empty if there is no such folder."""
        try:
            with self._entered() as at, os.scandir(at.folder if at.descriptor is None else at.descriptor) as entries:
                return {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except FileNotFoundError:
            return {}

    def stat(self, name: str) -> os.stat_result | None:
        """Return what is known about an entry, of a link about itself; None if there is none."""
        try:
            with self._entered() as at:
                return at.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, name: str) -> bool:
        """Return whether there is an entry, be it a link to nowhere."""
        return self.stat(name) is not None

    def problem(self, name: str, in_place: bool = False) -> str:
        """Return why a file would be refused; empty if it would not, or if there is none. `in_place`: to write to it."""
        found = self.stat(name)
        return "" if found is None else _problem(found, in_place)

    def problem_of_subfolder(self, name: str) -> str:
        """Return why a subfolder would be refused; empty if it would not, or if there is none."""
        found = self.stat(name)
        return "" if found is None or stat.S_ISDIR(found.st_mode) else _problem(found, False) or "is no folder"

    def open(self, name: str) -> BinaryIO:
        """Open a file to read it."""
        return os.fdopen(self._descriptor(name, os.O_RDONLY), "rb")

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1) if size <= limit else b""  # to ask for `limit` bytes would take as much memory at once
            while size < len(content) <= limit and (more := file.read(_GROWTH)):
                content += more
            if max(size, len(content)) > limit:
                raise RefusedError(self.path / name, f"has more than {limit:,} bytes")
            return content

    def tail(self, name: str, limit: int) -> bytes:
        """Return the last bytes of a file, at most `limit`."""
        with self.open(name) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read(limit)

    def append(self, name: str) -> FileIO:
        """Open a file to append to it, which creates it if it is missing. It can be read and truncated, too."""
        return FileIO(self._descriptor(name, os.O_RDWR | os.O_APPEND | os.O_CREAT, in_place=True), "a+")

    def update(self, name: str) -> int:
        """Open a file to overwrite parts of it, which creates it if it is missing; return the descriptor."""
        return self._descriptor(name, os.O_RDWR | os.O_CREAT, in_place=True)

    def create(self, name: str) -> BinaryIO:
        """Create a file. FileExistsError if there is an entry of this name, be it a link to nowhere."""
        return os.fdopen(self._descriptor(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Replace a file atomically and durably: readers see the old or the new content, also after a crash.

        A link of this name is replaced itself.
        """
        with self._entered() as at, at.written(name, content) as temporary:
            os.replace(at.path(temporary), at.path(name), src_dir_fd=at.descriptor, dst_dir_fd=at.descriptor)
            at.sync()

    def write_new(self, name: str, content: bytes) -> None:
        """Create a file with this content at once. FileExistsError if there is an entry: one of several writers succeeds."""
        with self._entered() as at, at.written(name, content) as temporary:
            os.link(at.path(temporary), at.path(name), src_dir_fd=at.descriptor, dst_dir_fd=at.descriptor, follow_symlinks=False)
            at.sync()

    def make(self) -> Folder:
        """Make the subfolder if it is missing, and return it. Its parent must exist."""
        *above, name = self.below
        with Folder(self.top, tuple(above))._entered() as at:
            try:
                os.mkdir(at.path(name), dir_fd=at.descriptor)
            except FileExistsError:
                with self._entered():  # refuses a link
                    pass
        return self

    def remove(self, name: str) -> None:
        """Remove a file or a link itself, if there is one."""
        try:
            with self._entered() as at:
                os.unlink(at.path(name), dir_fd=at.descriptor)
        except FileNotFoundError:
            pass

    def remove_folder(self, name: str) -> None:
        """Remove an empty subfolder."""
        with self._entered() as at:
            os.rmdir(at.path(name), dir_fd=at.descriptor)

    def move(self, name: str, target: Folder, new_name: str) -> None:
        """Move an entry, a link itself, to another folder of the same file system."""
        with self._entered() as at, target._entered() as there:
            os.rename(at.path(name), there.path(new_name), src_dir_fd=at.descriptor, dst_dir_fd=there.descriptor)

    def _descriptor(self, name: str, flags: int, in_place: bool = False) -> int:
        """Open a regular file. `in_place`: it is refused if it has another name, which may lie anywhere."""
        with self._entered() as at:
            found = at.stat_or_none(name)
            if found is not None and not flags & os.O_EXCL and (reason := _problem(found, in_place)):
                raise RefusedError(self.path / name, reason)
            descriptor = os.open(at.path(name), flags | _SAFELY, 0o666, dir_fd=at.descriptor)
        if reason := _problem(os.fstat(descriptor), in_place):  # it has been exchanged since
            os.close(descriptor)
            raise RefusedError(self.path / name, reason)
        return descriptor

    @contextmanager
    def _entered(self) -> Iterator[_Place]:
        """Enter the folder, component by component."""
        if not _HAS_DESCRIPTORS:
            place = self.top
            for name in self.below:
                place = place / _component(name)
                if place.is_symlink():
                    raise RefusedError(place, LINK)
            yield _Place(place, None)
            return
        descriptor = os.open(self.top, _FOLDER)
        try:
            for depth, name in enumerate(self.below, start=1):
                descriptor = _step(descriptor, name, self.top.joinpath(*self.below[:depth]))
            yield _Place(self.path, descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Place:
    """A folder that is entered. `descriptor`: None where the system cannot open files relative to one."""

    folder: Path
    descriptor: int | None

    def path(self, name: str) -> str:
        """Return what the system's calls take for an entry, together with `descriptor`."""
        return _component(name) if self.descriptor is not None else str(self.folder / _component(name))

    def stat(self, name: str) -> os.stat_result:
        return os.stat(self.path(name), dir_fd=self.descriptor, follow_symlinks=False)

    def stat_or_none(self, name: str) -> os.stat_result | None:
        try:
            return self.stat(name)
        except FileNotFoundError:
            return None

    @contextmanager
    def written(self, name: str, content: bytes | memoryview) -> Iterator[str]:
        """Write a file that is to get this name, durably, and give its own; what is left of it is removed at the end."""
        temporary = f".{name[-150:]}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
        try:
            with os.fdopen(os.open(self.path(temporary), flags, 0o666, dir_fd=self.descriptor), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):  # it has its name now, or was never made
                os.unlink(self.path(temporary), dir_fd=self.descriptor)

    def sync(self) -> None:
        """Make the names in the folder durable."""
        if self.descriptor is not None:
            os.fsync(self.descriptor)


def _component(name: str) -> str:
    if name in ("", os.curdir, os.pardir) or {"\0", os.sep, os.altsep or os.sep} & set(name):
        raise RefusedError(Path(name), "is no name of a file")
    return name


def _step(descriptor: int, name: str, path: Path) -> int:
    """Return the descriptor of a subfolder, for which that of its parent is given up only if it can be opened."""
    try:
        inner = os.open(_component(name), _FOLDER | _SAFELY, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
            raise RefusedError(path, LINK if is_link else "is no folder") from None
        raise
    os.close(descriptor)
    return inner


def _problem(found: os.stat_result, in_place: bool) -> str:
    if stat.S_ISLNK(found.st_mode):
        return LINK
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if in_place and found.st_nlink > 1:
        return "has another name elsewhere (a hard link), whose content would change, too; copy the folder and use the copy"
    return ""


def is_there(path: Path) -> bool:
    """Return whether a folder has an entry at this path, be it a link to nowhere; False where that cannot be found out."""
    try:
        return Folder(path.parent).exists(path.name)
    except OSError:
        return False
