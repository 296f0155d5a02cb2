"""An exclusive lock on a run folder. The kernel releases it when the process exits, however it exits.

So a dead process holds no lock, even after another program got its process id. On file systems that share locks between hosts
(NFS, Lustre, GPFS as usually mounted) the lock holds between hosts, too. Without file locks, the recorded host, process id and
start time decide as far as they can.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from train.store.files import LOCK_FILE
from train.store.inside import Folder
from train.store.stored import read_stored

_PATIENCE_S = 0.5
"""How long to try: `is_held` takes the lock briefly, and a new owner needs a moment to record itself."""
_LONGEST_WAIT_S = 30.0
_TICKS_PER_S = 100
"""The unit of start times in Linux's `/proc`, where earlier versions of this file read them."""


@dataclass(frozen=True)
class LockHolder:
    """The process that holds a lock.

    `ticks`: its start time in clock ticks since boot. It distinguishes the process from a later one with the same id.
    """

    pid: int
    host: str
    since: str
    ticks: int | None = None

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}, since {self.since}"

    def may_be_alive(self) -> bool:
        """Return False if the process has certainly ended: it ran on this host, and its id is free or in use by another."""
        if self.host != socket.gethostname():
            return True
        ticks = start_ticks(self.pid)
        return ticks is not None and self.ticks in (None, ticks)


class Lock:
    """A lock, held from `acquire` to `release` or the end of the process. Children lose their copies of it at exec."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_FILE
        self._file: int | None = None

    def acquire(self) -> LockHolder | None:
        """Acquire the lock. Return None on success, else its holder. OSError when the folder cannot be written."""
        if self._file is not None:
            return None
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            file = Folder(self.folder).update(LOCK_FILE)
            if self._try_lock(file) and self._is_at(file):
                self._file = file
                self._write_holder(file)
                return None
            os.close(file)
            if time.monotonic() > deadline:
                return last_holder(self.folder) or LockHolder(0, "an unknown host", "just now")
            time.sleep(0.05)

    def release(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could lock two files of the same name."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)

    def _try_lock(self, file: int) -> bool:
        """Lock the open file if it is free. If the file system has no locks, the recorded process decides."""
        from filelock import lock_descriptor  # here, as importing it takes longer than this package

        try:
            return lock_descriptor(file, blocking=False)
        except OSError:
            holder = last_holder(self.folder)
            return holder is None or not holder.may_be_alive()

    def _is_at(self, file: int) -> bool:
        """Return whether the path is still that of the file that was opened."""
        try:
            return os.path.samestat(os.fstat(file), self.path.lstat())
        except FileNotFoundError:
            return False

    @staticmethod
    def _write_holder(file: int) -> None:
        pid = os.getpid()
        holder = LockHolder(pid, socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), start_ticks(pid))
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(holder)).encode(), 0)


@contextmanager
def held_briefly(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock file `name` of a folder inside the block, which takes a moment: others wait for it.

    OSError when the folder cannot be written, or the lock is not free after half a minute.
    """
    file = Folder(folder).update(name)
    try:
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while not _lock_or_go_on(file):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process does not release it", str(folder / name))
            time.sleep(0.02)
        yield
    finally:
        os.close(file)  # releases the lock


def _lock_or_go_on(file: int) -> bool:
    """Return whether the file is locked, or cannot be: without locks, atomic replacement has to do."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(file, blocking=False)
    except OSError:
        return True


def is_held(folder: Path) -> bool | None:
    """Return whether a process holds the lock of the folder; None if unknown because there is no lock. Writes nothing."""
    try:
        file = Folder(folder).open(LOCK_FILE)
    except OSError:
        return None
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that concurrent checks do not disturb each other
        return False
    except BlockingIOError:
        return True
    except (OSError, ImportError):  # the file system has no locks, or the system is Windows
        holder = last_holder(folder)
        return None if holder is None else holder.may_be_alive()
    finally:
        file.close()


def last_holder(folder: Path) -> LockHolder | None:
    """Return the process that last recorded itself as the lock's holder; None if there is no such record."""
    try:
        content = read_stored(folder, LOCK_FILE)
    except (OSError, ValueError):
        return None
    return LockHolder(content["pid"], content["host"], content["since"], content.get("ticks"))


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None if no process of this host has this id."""
    import psutil  # here, as only few commands need it

    try:
        boot = psutil.boot_time()
        return round((psutil.Process(pid).create_time() - boot) * _TICKS_PER_S)
    except (psutil.Error, OSError):
        return None
