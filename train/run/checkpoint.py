"""Checkpoints: their content, when they are written, and how a loop is restored from one.

A checkpoint is taken between two updates. All randomness is a function of seed, role and step, so it holds no generator state.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from train.config import CheckpointSettings
from train.errors import RunError, UsageError
from train.run.checkpoint_files import CheckpointFile, list_checkpoints, remove_after, write_checkpoint
from train.run.loop import Best, Loop, Score
from train.run.snapshot import Snapshot
from train.run.step import Measurement
from train.sinks.contracts import Sink

FORMAT = 1
SHARE = 0.01
"""Share of the run time that checkpoints by `every_minutes` may take: where writing is slow, they become rarer."""


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


def loop_state(loop: Loop) -> dict[str, Any]:
    """Return everything in a loop that the next update, the next record or the end depends on."""
    train_state, result = loop.train_state, loop.result
    # Names of format 1: `bookmark` is the snapshot, `looked` is `evaluated`.
    return {
        "model": train_state.model.state_dict(),
        "optimizer": train_state.optimizer.state_dict(),
        "scaler": train_state.scaler.state_dict(),
        "losses": [m.loss for m in loop.unrecorded],
        "correct": [m.correct for m in loop.unrecorded],
        "moments": loop.moments.state(),
        "bookmark": loop.snapshot.state() if loop.snapshot else None,
        "steps": result.steps,
        "looked": loop.evaluated,
        "train_loss": result.train_loss,
        "val": asdict(result.val) if result.val else None,
        "best": asdict(loop.best) if loop.best else None,
        "train_s": result.train_s + loop.epoch_s(),
    }


def restore_loop(loop: Loop, state: Mapping[str, Any]) -> None:
    """Load the state of `loop_state` into a new loop."""
    train_state, result = loop.train_state, loop.result
    train_state.model.load_state_dict(state["model"])
    train_state.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        train_state.scaler.load_state_dict(state["scaler"])
    device = train_state.placement.device
    pairs = zip(state["losses"], state["correct"], strict=True)
    loop.unrecorded = [Measurement(loss.to(device), correct.to(device)) for loss, correct in pairs]
    loop.moments.load_state(state["moments"])
    if state["bookmark"]:
        loop.snapshot = Snapshot(train_state, result.steps)
        loop.snapshot.load_state(state["bookmark"])
    result.steps, result.train_loss, result.train_s = state["steps"], state["train_loss"], state["train_s"]
    result.val = Score(**state["val"]) if state["val"] else None
    loop.best = Best(state["best"]["step"], Score(**state["best"]["score"])) if state["best"] else None
    loop.evaluated = state["looked"]


def find_checkpoint(run: Path, experiments: Collection[str]) -> FoundCheckpoint:
    """Find the newest valid checkpoint of the run folder `run`. Damaged files are renamed and noted.

    UsageError when a checkpoint has another format, is no checkpoint, or its configuration has none of the ids `experiments`.
    """
    notes: list[str] = []
    for file in list_checkpoints(run):
        content = file.read()
        if content is not None:
            return FoundCheckpoint(decode_checkpoint(file, content, experiments), tuple(notes))
        file.mark_damaged()
        notes.append(f"{file.path.name} is damaged (its content does not match the checksum in its name) and is not used.")
    return FoundCheckpoint(None, tuple(notes))


def encode_checkpoint(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def decode_checkpoint(file: CheckpointFile, content: bytes, experiments: Collection[str]) -> Checkpoint:
    """Decode a checkpoint without executing anything in it. UsageError as in `find_checkpoint`."""
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        file_format, experiment = loaded["format"], loaded["experiment"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UsageError(
            f"{file.path}: not a checkpoint of a run ({message[:200]}). Remove it to use the previous one."
        ) from None
    if file_format != FORMAT:
        raise UsageError(f"{file.path}: checkpoint has format {file_format}; this version of train reads format {FORMAT}.")
    if experiment not in experiments:
        raise UsageError(f"{file.path}: checkpoint of a run with another configuration. Remove it to use the previous one.")
    return Checkpoint(file.step, loaded["elapsed_s"], loaded["first_batch"], loaded["files"], loaded["loop"])


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
        content = self._labels | {"elapsed_s": time.perf_counter() - loop.began, "files": files, "loop": loop_state(loop)}
        try:
            if self._best is not None:
                write_checkpoint(self._run, "best", *self._best, keep=1)
                self._best = None
            write_checkpoint(self._run, "step", loop.result.steps, encode_checkpoint(content), keep=self._settings.keep)
            self.problem = ""
        except OSError as error:
            self.problem = f"the checkpoint of step {loop.result.steps} could not be written ({error.strerror or error})"
            newest = next(iter(list_checkpoints(self._run)), None)
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
