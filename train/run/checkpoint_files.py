"""The files of `checkpoints/` in a run folder. Starts without torch.

A file's name holds what it is, the number of updates and the beginning of the SHA-256 of its content, as in
`step-000001200-4f0c6d2b9a1e7735.pt`: a damaged file is known by its name, and torch opens it as it is. A file appears under its
name complete and on the disk, or not at all.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from train.run.folder import write_atomic

Kind: TypeAlias = Literal["step", "best"]
FOLDER = "checkpoints"
_NAME = re.compile(r"(step|best)-(\d{9,})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class CheckpointFile:
    """`step`: updates done; `checksum`: what the content should have."""

    path: Path
    step: int
    checksum: str

    def read(self) -> bytes | None:
        """The content; None when it is not what was written."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        return content if checksum(content) == self.checksum else None

    def mark_damaged(self) -> None:
        """Damaged: it keeps its content and loses its name."""
        self.path.replace(self.path.with_suffix(".damaged"))


def list_checkpoints(run: Path, kind: Kind = "step") -> list[CheckpointFile]:
    """Those of a run folder, the newest first."""
    folder = run / FOLDER
    found = [
        CheckpointFile(path, int(match[2]), match[3])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name)) and match[1] == kind
    ]
    return sorted(found, key=lambda file: file.step, reverse=True)


def newest_valid(run: Path) -> CheckpointFile | None:
    """The newest checkpoint whose content is whole; None when there is none."""
    return next((file for file in list_checkpoints(run) if file.read() is not None), None)


def write_checkpoint(run: Path, kind: Kind, step: int, content: bytes, keep: int) -> None:
    """Write durably; then remove all but the newest `keep` of this kind. OSError when the disk does not take it: then nothing is
    removed and nothing new is there."""
    folder = run / FOLDER
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
    """Remove what comes after `step`, and what a killed process left half written."""
    for kind in ("step", "best"):
        for file in list_checkpoints(run, kind):
            if file.step > step:
                file.path.unlink(missing_ok=True)
    for path in (run / FOLDER).glob(".*") if (run / FOLDER).is_dir() else ():
        path.unlink(missing_ok=True)


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
