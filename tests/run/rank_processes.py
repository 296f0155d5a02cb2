"""A run on several devices from outside: the command in a process of its own, and all processes that come of it."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import COMMAND

MARK = "TRAIN_TEST_MARK"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Command:
    """A running command. `mark`: the value of a variable that all its processes inherit."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def processes(self) -> list[int]:
        """Return the ids of all processes that came of the command and are still there."""
        return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_of(entry))

    def ranks(self) -> list[int]:
        """Return the ids of the other ranks: Python processes that were spawned."""
        return [pid for pid in self.processes() if b"spawn_main" in _read(Path(f"/proc/{pid}/cmdline"))]

    def output(self) -> str:
        """Return what the command has printed, when it has ended."""
        self.process.wait(PATIENCE_S)
        return self.log.read_text()

    def _is_of(self, entry: Path) -> bool:
        is_zombie = b") Z " in _read(entry / "stat")
        return not is_zombie and f"{MARK}={self.mark}".encode() in _read(entry / "environ")

    def ended(self) -> bool:
        """Return whether all processes end within `PATIENCE_S`."""
        return wait_until(lambda: not self.processes())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wait_until(condition: Callable[[], bool]) -> bool:
    """Return whether the condition becomes true within `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def started(folder: Path, arguments: Sequence[str], program: Sequence[str] = (str(COMMAND),)) -> Iterator[Command]:
    """Start a command in `folder`; at the end kill what is left of it."""
    mark, log = uuid.uuid4().hex, folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    command = Command(process, mark, log)
    try:
        yield command
    finally:
        for pid in command.processes():
            os.kill(pid, 9)
        process.wait()


def records(run: Path) -> int:
    """Return how many records a run has by now."""
    return _read(run / "metrics.jsonl").count(b"\n")
