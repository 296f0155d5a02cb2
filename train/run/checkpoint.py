"""Checkpoints: their files, their content, when they are written, and how one is found. Imports torch only to encode and decode.

A checkpoint is taken between two updates. All randomness is a function of seed, role and step, so it holds no generator state.

A file name holds the kind, the number of updates and the first 16 hex digits of the content's SHA-256, as in
`checkpoints/step-000001200-4f0c6d2b9a1e7735.pt`. A damaged file does not match its name, and `torch.load` opens the file
directly. Writes are atomic and durable: a file is complete and on disk when its name appears.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from train.errors import RunError, UsageError
from train.run.tensor_file import most_bytes
from train.store.files import CHECKPOINTS_FOLDER
from train.store.inside import Folder
from train.text import size

if TYPE_CHECKING:
    import torch

    from train.config import CheckpointSettings
    from train.run.loop import Loop
    from train.sinks.contracts import Sink

Kind: TypeAlias = Literal["step", "best"]
_NAME = re.compile(r"(step|best)-([0-9]{9,15})-([0-9a-f]{16})\.pt")

FORMAT = 1
SHARE = 0.01
"""Share of the run time that checkpoints by `every_minutes` may take: where writing is slow, they become rarer."""


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint file. `step`: updates done; `checksum`: expected checksum of the content."""

    folder: Folder
    name: str
    step: int
    checksum: str

    @property
    def path(self) -> Path:
        """The path, for messages."""
        return self.folder.path / self.name

    def read(self) -> bytes | None:
        """Return the content; None when the file is unreadable or its checksum does not match. UsageError without the memory."""
        try:
            found, limit = self.folder.stat(self.name), most_bytes()
            if found is not None and found.st_size > limit:
                raise UsageError(
                    f"{self.path}: it has {size(found.st_size)}, and reading it takes twice its size of memory, of which "
                    f"{size(2 * limit)} are available. Free memory; or remove the file, and the one before it is used."
                )
            content = self.folder.read(self.name, limit)
        except (OSError, MemoryError):
            return None
        return content if checksum(content) == self.checksum else None

    def mark_damaged(self) -> None:
        """Rename the damaged file to `.damaged`, so that it is no longer listed."""
        self.folder.move(self.name, self.folder, f"{self.name.removesuffix('.pt')}.damaged")

    def remove(self) -> None:
        """Remove the file."""
        self.folder.remove(self.name)


def list_checkpoints(run: Path, kind: Kind = "step") -> list[CheckpointFile]:
    """Return the checkpoints of a kind in the run folder `run`, newest first."""
    folder = Folder(run) / CHECKPOINTS_FOLDER
    files = [
        CheckpointFile(folder, name, int(match[2]), match[3])
        for name in folder.names()
        if (match := _NAME.fullmatch(name)) and match[1] == kind
    ]
    return sorted(files, key=lambda file: file.step, reverse=True)


def newest_listed(run: Path) -> CheckpointFile | None:
    """Return the newest checkpoint, unchecked; None when there is none or the folder cannot be read."""
    try:
        return next(iter(list_checkpoints(run)), None)
    except OSError:
        return None


def newest_valid(run: Path) -> CheckpointFile | None:
    """Return the newest checkpoint with a matching checksum, or None. UsageError without the memory to read one."""
    try:
        return next((file for file in list_checkpoints(run) if file.read() is not None), None)
    except OSError:
        return None


def write_checkpoint(run: Path, kind: Kind, step: int, content: bytes, keep: int) -> None:
    """Write durably, then remove all but the newest `keep` of this kind. OSError when the write fails; nothing changes then."""
    folder = (Folder(run) / CHECKPOINTS_FOLDER).make()
    name = f"{kind}-{step:09d}-{checksum(content)}.pt"
    folder.write(name, content)
    for old in [file for file in list_checkpoints(run, kind) if file.name != name][max(keep - 1, 0) :]:
        old.remove()


def prune_checkpoints(run: Path, kind: Kind, keep: int = 0) -> None:
    """Remove all but the newest `keep` of this kind."""
    for file in list_checkpoints(run, kind)[keep:]:
        file.remove()


def remove_after(run: Path, step: int) -> None:
    """Remove checkpoints after `step`, and the partial files of a killed process."""
    for kind in ("step", "best"):
        for file in list_checkpoints(run, kind):
            if file.step > step:
                file.remove()
    folder = Folder(run) / CHECKPOINTS_FOLDER
    for name in folder.names():
        if name.startswith("."):
            folder.remove(name)


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """A decoded checkpoint. `files`: file name -> bytes written before it; `first_batch`: hash of the run's first batch."""

    step: int
    elapsed_s: float
    first_batch: str
    files: Mapping[str, int]
    loop: Mapping[str, Any]


class FoundCheckpoint:
    """The newest usable checkpoint, if there is one, and notes to the user about the others."""

    def __init__(self, checkpoint: Checkpoint | None = None, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        self.step = checkpoint.step if checkpoint else 0
        self.elapsed_s = checkpoint.elapsed_s if checkpoint else 0.0
        self.files = dict(checkpoint.files) if checkpoint else {}
        self._checkpoint = checkpoint

    def pop(self) -> Checkpoint | None:
        """Return the checkpoint and drop the reference: it is as large as the model and its optimizer."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return checkpoint


def find_checkpoint(run: Path, experiments: Collection[str]) -> FoundCheckpoint:
    """Find the newest valid checkpoint of the run folder `run`. Damaged files are renamed and noted.

    UsageError when a checkpoint has another format, is no checkpoint, its configuration has none of the ids `experiments`, or the
    memory does not suffice to read it.
    """
    notes: list[str] = []
    try:
        files = list_checkpoints(run)
    except OSError as error:
        raise UsageError(f"{run}: its checkpoints cannot be read ({error.strerror}).") from None
    for file in files:
        content = file.read()
        if content is not None:
            return FoundCheckpoint(decode_checkpoint(file, content, experiments), tuple(notes))
        try:
            file.mark_damaged()
        except OSError as error:
            raise UsageError(f"{file.path}: it is damaged, and cannot be renamed ({error.strerror}).") from None
        notes.append(f"{file.path.name} is damaged (its content does not match the checksum in its name) and is not used.")
    return FoundCheckpoint(None, tuple(notes))


def encode_checkpoint(content: Mapping[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def decode_checkpoint(file: CheckpointFile, content: bytes, experiments: Collection[str]) -> Checkpoint:
    """Decode a checkpoint without executing anything in it. UsageError as in `find_checkpoint`."""
    from train.run.checkpoint_content import load_content

    try:
        loaded = load_content(content, file.step, FORMAT)
    except Exception as error:  # whatever a stranger's file makes the decoder raise
        message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UsageError(
            f"{file.path}: not a checkpoint of a run ({message[:200]}). Remove it to use the previous one."
        ) from None
    if loaded["format"] != FORMAT:
        raise UsageError(f"{file.path}: checkpoint has format {loaded['format']}; this version of train reads format {FORMAT}.")
    if loaded["experiment"] not in experiments:
        raise UsageError(f"{file.path}: checkpoint of a run with another configuration. Remove it to use the previous one.")
    return Checkpoint(file.step, **{name: loaded[name] for name in ("elapsed_s", "first_batch", "files", "loop")})


class CheckpointSaver:
    """A writer of a loop's checkpoints into its run folder. A failed write is a warning and keeps the earlier checkpoints.

    `experiment`, `first_batch`: stored in each checkpoint, to verify on resume that it fits; `sink`: gets the warnings and
    returns the offsets of its files; `clock`: returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        run: Path,
        settings: CheckpointSettings,
        experiment: str,
        first_batch: str,
        sink: Sink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._settings = settings
        self._labels = {"format": FORMAT, "experiment": experiment, "first_batch": first_batch}
        self._sink = sink
        self._clock = clock
        self._every_s = math.inf if settings.every_minutes is None else 60 * settings.every_minutes
        self._due_at = clock() + self._every_s
        self._best: tuple[int, bytes] | None = None
        self.problem = ""
        """Why the last write failed; empty when it succeeded."""

    def due(self, done: int) -> bool:
        every = self._settings.every_steps
        return (every is not None and done % every == 0) or self._clock() >= self._due_at

    def keep_best(self, done: int, model: torch.nn.Module) -> None:
        """Keep the weights of the best model so far. The next checkpoint writes them, so that both are of the same run state."""
        if self._settings.best:
            self._best = done, encode_checkpoint({name: value.cpu() for name, value in model.state_dict().items()})

    def save(self, loop: Loop) -> None:
        began = self._clock()
        files = dict(self._sink.sync())  # synced to disk before the checkpoint that refers to these offsets
        content = self._labels | {"elapsed_s": time.perf_counter() - loop.began, "files": files, "loop": loop.state()}
        try:
            if self._best is not None:
                write_checkpoint(self._run, "best", *self._best, keep=1)
                self._best = None
            write_checkpoint(self._run, "step", loop.steps, encode_checkpoint(content), keep=self._settings.keep)
            self.problem = ""
        except OSError as error:
            self.problem = f"the checkpoint of step {loop.steps} could not be written ({error.strerror or error})"
            newest = newest_listed(self._run)
            remaining = f"the latest is that of step {newest.step}" if newest else "there is no earlier one"
            self._sink.message(f"{self.problem}; {remaining}.", "warning")
        now = self._clock()
        self._due_at = now + max(self._every_s, (now - began) / SHARE)

    def discard_after(self, step: int) -> None:
        """Remove checkpoints after `step`, where the run resumes: they are of an earlier attempt."""
        remove_after(self._run, step)

    def refuse_other_data(self, checkpoint: Checkpoint) -> None:
        """Raise RunError when the first batch differs from the checkpoint's."""
        if checkpoint.first_batch != self._labels["first_batch"]:
            raise RunError(
                "The data changed since this run started: the first batch differs. Restore the data, or start a new run."
            )
