"""Going on from a checkpoint: whether it may be done, and how a new loop becomes what an old one was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.config import Settings, TrainerSettings, check, total_steps
from train.errors import UsageError
from train.run.build import Parts
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, restore_loop
from train.run.fingerprint import chosen_name
from train.run.folder import versions
from train.run.loop import Loop
from train.run.resume import refuse_new_length
from train.sinks.contracts import Sink
from train.sinks.jsonl import read_records
from train.store.run import Run


def validate_length(parts: Parts, settings: Settings, before: Run, done: int, steps_per_epoch: int) -> None:
    """UsageError when the run's new length does not fit the steps it has `done`."""
    then = total_steps(check(TrainerSettings, "trainer", before.config["trainer"]), steps_per_epoch)
    now = total_steps(settings.trainer, steps_per_epoch)
    if before.state == "done" and done < then:
        raise UsageError(f"{before.folder}: this run is done and has no checkpoint of its end, so that it cannot be made longer.")
    if now != then:
        refuse_new_length(parts.schedule, chosen_name(settings, "schedule"), then, now, done)


def restore_run(loop: Loop, before: Run, found: FoundCheckpoint, saver: CheckpointSaver, sink: Sink, metrics_file: Path) -> None:
    """Make `loop`, `sink` and the folder what they were at the checkpoint. RunError when the data are not those of then."""
    saver.discard_after(found.step)
    for note in [*found.notes, *version_changes(before.status)]:
        sink.message(note, "warning")
    start = found.pop()
    if start is None:
        sink.message("There is no checkpoint of this run to go on from: it begins again.")
        return
    saver.refuse_other_data(start)
    for record in read_records(metrics_file):
        sink.replay(record)
    restore_loop(loop, start.loop)
    sink.message(f"This run goes on at step {start.step}.")


def version_changes(status: Mapping[str, Any]) -> list[str]:
    """What has been exchanged since the run began, in a sentence."""
    then, now = dict(status.get("versions") or {}), versions()
    other = [f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]]
    return [f"Not what the run began with, so that it may not go on to the bit: {', '.join(other)}."] if other else []
