"""Resuming from a checkpoint: check the new length, then restore loop, sinks and run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.config import Settings, TrainerSettings, check, total_steps
from train.errors import UsageError
from train.run.build import Parts
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, restore_loop
from train.run.fingerprint import chosen_name
from train.run.loop import Loop
from train.run.resume import refuse_new_length
from train.sinks.contracts import Sink
from train.store.code import versions
from train.store.metrics import read_records
from train.store.run import Run


def validate_length(parts: Parts, settings: Settings, previous: Run, done: int, steps_per_epoch: int) -> None:
    """Raise UsageError when the new length does not fit the `done` steps of the run `previous`."""
    old_steps = total_steps(check(TrainerSettings, "trainer", previous.config["trainer"]), steps_per_epoch)
    new_steps = total_steps(settings.trainer, steps_per_epoch)
    if previous.state == "done" and done < old_steps:
        raise UsageError(f"{previous.folder}: this run is done, but without a checkpoint of its last step it cannot be extended.")
    if new_steps != old_steps:
        refuse_new_length(parts.schedule, chosen_name(settings, "schedule"), old_steps, new_steps, done)


def restore_run(
    loop: Loop, previous: Run, found: FoundCheckpoint, saver: CheckpointSaver, sink: Sink, metrics_file: Path
) -> None:
    """Restore `loop`, `sink` and the run folder to the checkpoint `found`. RunError when the data have changed."""
    saver.discard_after(found.step)
    for note in [*found.notes, *version_changes(previous.status)]:
        sink.message(note, "warning")
    checkpoint = found.pop()
    if checkpoint is None:
        sink.message("No checkpoint found; starting from step 0.")
        return
    saver.refuse_other_data(checkpoint)
    for record in read_records(metrics_file):
        sink.restore(record)
    restore_loop(loop, checkpoint.loop)
    sink.message(f"Resuming at step {checkpoint.step}.")


def version_changes(status: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the versions that changed since the run started, or an empty list."""
    old, new = dict(status.get("versions") or {}), versions()
    changes = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    return [f"Versions changed since the run started ({', '.join(changes)}); resuming may not be bit-exact."] if changes else []
