"""The files of `checkpoints/` in a run folder. Imports no torch.

A file name holds the kind, the number of updates and the first 16 hex digits of the content's SHA-256, as in
`step-000001200-4f0c6d2b9a1e7735.pt`. A damaged file does not match its name, and `torch.load` opens the file directly. Writes
are atomic and durable: a file is complete and on disk when its name appears.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from train.store.files import CHECKPOINTS_FOLDER, write_atomic

Kind: TypeAlias = Literal["step", "best"]
_NAME = re.compile(r"(step|best)-(\d{9,})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint file. `step`: updates done; `checksum`: expected checksum of the content."""

    path: Path
    step: int
    checksum: str

    def read(self) -> bytes | None:
        """Return the content; None when the file is unreadable or its checksum does not match."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        return content if checksum(content) == self.checksum else None

    def mark_damaged(self) -> None:
        """Rename the damaged file to `.damaged`, so that it is no longer listed."""
        self.path.replace(self.path.with_suffix(".damaged"))


def list_checkpoints(run: Path, kind: Kind = "step") -> list[CheckpointFile]:
    """Return the checkpoints of a kind in the run folder `run`, newest first."""
    folder = run / CHECKPOINTS_FOLDER
    files = [
        CheckpointFile(path, int(match[2]), match[3])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name)) and match[1] == kind
    ]
    return sorted(files, key=lambda file: file.step, reverse=True)


def newest_valid(run: Path) -> CheckpointFile | None:
    """Return the newest checkpoint with a matching checksum; None when there is none."""
    return next((file for file in list_checkpoints(run) if file.read() is not None), None)


def write_checkpoint(run: Path, kind: Kind, step: int, content: bytes, keep: int) -> None:
    """Write durably, then remove all but the newest `keep` of this kind. OSError when the write fails; nothing changes then."""
    folder = run / CHECKPOINTS_FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}-{step:09d}-{checksum(content)}.pt"
    write_atomic(path, content)
    for old in [file for file in list_checkpoints(run, kind) if file.path != path][max(keep - 1, 0) :]:
        old.path.unlink(missing_ok=True)


def prune_checkpoints(run: Path, kind: Kind, keep: int = 0) -> None:
    """Remove all but the newest `keep` of this kind."""
    for file in list_checkpoints(run, kind)[keep:]:
        file.path.unlink(missing_ok=True)


def remove_after(run: Path, step: int) -> None:
    """Remove checkpoints after `step`, and the partial files of a killed process."""
    for kind in ("step", "best"):
        for file in list_checkpoints(run, kind):
            if file.step > step:
                file.path.unlink(missing_ok=True)
    for path in (run / CHECKPOINTS_FOLDER).glob(".*") if (run / CHECKPOINTS_FOLDER).is_dir() else ():
        path.unlink(missing_ok=True)


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
