"""What a run needs to go on as if nothing had happened, and when it is written down.

A checkpoint is taken between two updates. All randomness is a function of seed, role and step, so no generator's state is in it.
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
"""Of a run's time that checkpoints every so many minutes may take: where writing is slow, they become rarer."""


@dataclass(frozen=True)
class Checkpoint:
    """`files`: name -> bytes that the run's files held; `first_batch`: hash of the first batch of the data it was trained on."""

    step: int
    elapsed_s: float
    first_batch: str
    files: Mapping[str, int]
    loop: Mapping[str, Any]


class FoundCheckpoint:
    """The newest checkpoint that can be used, if there is one, and what the user should know about the others."""

    def __init__(self, checkpoint: Checkpoint | None = None, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        self.step = checkpoint.step if checkpoint else 0
        self.elapsed_s = checkpoint.elapsed_s if checkpoint else 0.0
        self.files = dict(checkpoint.files) if checkpoint else {}
        self._checkpoint = checkpoint

    def pop(self) -> Checkpoint | None:
        """Once: it is as large as the model and its optimizer, and need not stay."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return checkpoint


def loop_state(loop: Loop) -> dict[str, Any]:
    """Everything in a loop that the next update, the next record or the end depends on."""
    train_state, ending = loop.train_state, loop.result
    return {
        "model": train_state.model.state_dict(),
        "optimizer": train_state.optimizer.state_dict(),
        "scaler": train_state.scaler.state_dict(),
        "losses": [m.loss for m in loop.recent],
        "correct": [m.correct for m in loop.recent],
        "moments": loop.moments.state(),
        "bookmark": loop.snapshot.state() if loop.snapshot else None,
        "steps": ending.steps,
        "looked": loop.evaluated,
        "train_loss": ending.train_loss,
        "val": asdict(ending.val) if ending.val else None,
        "best": asdict(loop.best) if loop.best else None,
        "train_s": ending.train_s + loop.epoch_s(),
    }


def restore_loop(loop: Loop, state: Mapping[str, Any]) -> None:
    """Make `loop`, which is new, what it was."""
    train_state, ending = loop.train_state, loop.result
    train_state.model.load_state_dict(state["model"])
    train_state.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        train_state.scaler.load_state_dict(state["scaler"])
    device = train_state.placement.device
    pairs = zip(state["losses"], state["correct"], strict=True)
    loop.recent = [Measurement(loss.to(device), correct.to(device)) for loss, correct in pairs]
    loop.moments.load_state(state["moments"])
    if state["bookmark"]:
        loop.snapshot = Snapshot(train_state, ending.steps)
        loop.snapshot.load_state(state["bookmark"])
    ending.steps, ending.train_loss, ending.train_s = state["steps"], state["train_loss"], state["train_s"]
    ending.val = Score(**state["val"]) if state["val"] else None
    loop.best = Best(state["best"]["step"], Score(**state["best"]["score"])) if state["best"] else None
    loop.evaluated = state["looked"]


def find_checkpoint(run: Path, experiments: Collection[str]) -> FoundCheckpoint:
    """In a run folder. Damaged files are set aside and named. UsageError for a checkpoint whose configuration has none of the
    ids `experiments`, of a later format, or that is something else."""
    notes: list[str] = []
    for file in list_checkpoints(run):
        content = file.read()
        if content is not None:
            return FoundCheckpoint(decode_checkpoint(file, content, experiments), tuple(notes))
        file.mark_damaged()
        notes.append(f"{file.path.name} is damaged (its content is not what its name says) and is not used.")
    return FoundCheckpoint(None, tuple(notes))


def encode_checkpoint(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def decode_checkpoint(file: CheckpointFile, content: bytes, experiments: Collection[str]) -> Checkpoint:
    """UsageError as `find`. Nothing in the content is run."""
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        form, of = loaded["format"], loaded["experiment"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UsageError(
            f"{file.path}: this is not a checkpoint of a run ({said[:200]}). Remove it to use the one before."
        ) from None
    if form != FORMAT:
        raise UsageError(f"{file.path}: this checkpoint has format {form}; this version of train reads format {FORMAT}.")
    if of not in experiments:
        raise UsageError(f"{file.path}: this checkpoint is of a run with another configuration. Remove it to use the one before.")
    return Checkpoint(file.step, loaded["elapsed_s"], loaded["first_batch"], loaded["files"], loaded["loop"])


class CheckpointSaver:
    """Writes a loop's checkpoints into the folder of its run. A write that fails is a warning: what was written before stays.

    `experiment`, `first_batch`: go into each, to tell whether it fits; `sink`: gets the warnings and says how far its files are;
    `clock`: seconds on a steady clock.
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
        """Why the last write failed; empty when it did not."""

    def due(self, done: int) -> bool:
        every = self._settings.every_steps
        return (every is not None and done % every == 0) or self._clock() >= self._due_at

    def keep_best(self, done: int, model: torch.nn.Module) -> None:
        """The model is the best so far. It is written with the next checkpoint, so that the two belong together."""
        if self._settings.best:
            self._best = done, encode_checkpoint({name: value.cpu() for name, value in model.state_dict().items()})

    def save(self, loop: Loop) -> None:
        began = self._clock()
        files = dict(self._sink.sync())  # on the disk before the checkpoint that counts on it
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
            kept = f"that of step {newest.step} stays" if newest else "there is none before it"
            self._sink.message(f"{self.problem}; {kept}.", "warning")
        now = self._clock()
        self._due_at = now + max(self._every_s, (now - began) / SHARE)

    def discard_after(self, step: int) -> None:
        """The run goes on at `step`: what an earlier attempt wrote of the time after it is not of this run any more."""
        remove_after(self._run, step)

    def refuse_other_data(self, checkpoint: Checkpoint) -> None:
        """RunError when the first batch is not what it was."""
        if checkpoint.first_batch != self._labels["first_batch"]:
            raise RunError(
                "The data are not those that this run began with: the first batch is another. Put them back, or begin a new run."
            )
