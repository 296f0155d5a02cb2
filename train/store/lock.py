"""An exclusive lock on a run folder. The kernel releases it when the process exits, however it exits.

So a dead process holds no lock, even after another program got its process id. On file systems that share locks between hosts
(NFS, Lustre, GPFS as usually mounted) the lock holds between hosts, too. Without file locks, the recorded host, process id and
start time decide as far as they can.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME = ".lock"
_PATIENCE_S = 0.5
"""How long to try: `is_held` takes the lock briefly, and a new owner needs a moment to record itself."""


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
        return is_process_alive(self.pid) and (self.ticks is None or start_ticks(self.pid) in (None, self.ticks))


class Lock:
    """A lock, held from `acquire` to `release` or the end of the process. Children lose their copies of it at exec."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._file: int | None = None

    @property
    def acquired(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> LockHolder | None:
        """Acquire the lock. Return None on success, else its holder. OSError when the folder cannot be written."""
        if self.acquired:
            return None
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            acquired = _try_lock(file, shared=False)
            if acquired is None:
                acquired = not _may_be_alive(_read_holder(self.path))
            if acquired and _is_at(file, self.path):
                self._file = file
                self._write_holder(file)
                return None
            os.close(file)
            if time.monotonic() > deadline:
                return _read_holder(self.path) or LockHolder(0, "an unknown host", "just now")
            time.sleep(0.05)

    def release(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could lock two files of the same name."""
        if self._file is not None:
            file, self._file = self._file, None
            os.ftruncate(file, 0)
            os.close(file)

    @staticmethod
    def _write_holder(file: int) -> None:
        pid = os.getpid()
        holder = LockHolder(pid, socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), start_ticks(pid))
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(holder)).encode(), 0)


def is_held(folder: Path) -> bool | None:
    """Return whether a process holds the lock of the folder; None if unknown because there is no lock. Writes nothing."""
    path = folder / FILE_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        free = _try_lock(file, shared=True)  # shared, so that concurrent checks do not disturb each other
    finally:
        os.close(file)
    if free is None:
        holder = _read_holder(path)
        return None if holder is None else holder.may_be_alive()
    return not free


def last_holder(folder: Path) -> LockHolder | None:
    """Return the process that last recorded itself as the lock's holder; None if there is no such record."""
    return _read_holder(folder / FILE_NAME)


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None where Linux's /proc is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _try_lock(file: int, shared: bool) -> bool | None:
    """Try to lock without waiting. Return whether that succeeded; None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: int, path: Path) -> bool:
    """Return whether `path` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _may_be_alive(holder: LockHolder | None) -> bool:
    return holder is not None and holder.may_be_alive()


def _read_holder(path: Path) -> LockHolder | None:
    try:
        return LockHolder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_process_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this host, under any user."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
