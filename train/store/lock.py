"""Who works in a run folder: a lock that the system holds for a process and gives back when the process ends, however it ends.

So a dead process holds nothing, whatever program has its number by now. On file systems that share locks between hosts (NFS,
Lustre, GPFS as usually mounted) it holds between hosts too. Where there are no locks at all, host, process number and the
process's starting time decide, as far as they can.
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
"""How long to try: whoever only looks holds the lock for a moment, and its new owner needs one to write down who it is."""


@dataclass(frozen=True)
class LockHolder:
    """A process. `ticks`: when it started, in the system's own count, which tells it from a later one of the same number."""

    pid: int
    host: str
    since: str
    ticks: int | None = None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def may_be_alive(self) -> bool:
        """False when the process has ended for certain: it was on this host, where nothing or another program has its number."""
        if self.host != socket.gethostname():
            return True
        return is_process_alive(self.pid) and (self.ticks is None or start_ticks(self.pid) in (None, self.ticks))


class Lock:
    """Held from `take` to `give_back`, or to the end of the process. Not by its children: their copies are closed at exec."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._file: int | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> LockHolder | None:
        """None when it is ours now, otherwise who has it. OSError where the folder cannot be written."""
        if self.held:
            return None
        until = time.monotonic() + _PATIENCE_S
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            got = _try(file, shared=False)
            if got is None:
                got = not _lives(_read(self.path))
            if got and _is_at(file, self.path):
                self._file = file
                self._sign(file)
                return None
            os.close(file)
            if time.monotonic() > until:
                return _read(self.path) or LockHolder(0, "an unknown host", "just now")
            time.sleep(0.05)

    def release(self) -> None:
        """The file stays: to remove it would let two processes lock two files of the same name."""
        if self._file is not None:
            file, self._file = self._file, None
            os.ftruncate(file, 0)
            os.close(file)

    @staticmethod
    def _sign(file: int) -> None:
        pid = os.getpid()
        holder = LockHolder(pid, socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), start_ticks(pid))
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(holder)).encode(), 0)


def is_held(folder: Path) -> bool | None:
    """Whether a process works in the folder now; None where that cannot be told, as there is no lock. Writes nothing."""
    path = folder / FILE_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        free = _try(file, shared=True)  # of those who look, none is in another's way
    finally:
        os.close(file)
    if free is None:
        holder = _read(path)
        return None if holder is None else holder.may_be_alive()
    return not free


def last_holder(folder: Path) -> LockHolder | None:
    """Who said last that the folder is theirs."""
    return _read(folder / FILE_NAME)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since the system did; None where Linux's /proc is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _try(file: int, shared: bool) -> bool | None:
    """Whether the lock could be had, without waiting; None where the file system has no locks."""
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
    """Whether `path` still is the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lives(holder: LockHolder | None) -> bool:
    return holder is not None and holder.may_be_alive()


def _read(path: Path) -> LockHolder | None:
    try:
        return LockHolder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_process_alive(pid: int) -> bool:
    """Whether a process of this number runs on this host, be it ours or not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
