"""Resume a run: check what may change, and restore its state. Imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.command import left_out, stored_command
from train.config import Settings, TrainerSettings, check, total_steps
from train.errors import CANNOT_DECODE, RunError, UsageError
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, newest_valid
from train.run.trust import trusted
from train.store.code import versions
from train.store.files import STATUS_FILE
from train.store.foreign import refuse_strange_files, strange_files
from train.store.identity import EXECUTION, VERSION, identity, upgraded
from train.store.inputs import Inputs, code_differences, data_differences, read_data, without_class
from train.store.inside import Folder
from train.store.lock import is_held
from train.store.manifest import read_manifest
from train.store.metrics import read_records
from train.store.overrides import flatten, key_of
from train.store.run import Run, read_run
from train.store.run_folder import RunFolder

if TYPE_CHECKING:
    from train.parts.contracts import Schedule
    from train.run.loop import Loop

AUTO = "auto"
LENGTH = ("trainer.epochs", "trainer.max_steps")
DATA_SOURCE = ("data.workers", "data.root")
CHANGEABLE = (*DATA_SOURCE, *(rule.key for rule in EXECUTION))
"""Keys that may change in a resumed run, besides its length: the data source (the first batch is compared) and execution."""
_MAX_DIFFERENCES = 6
_ABSENT = "(absent)"


def user_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that define a run: without `resume` and `trust`, which only concern this process."""
    return [override for override in overrides if key_of(override) not in ("resume", "trust")]


def run_to_resume(folder: RunFolder, requested: str | None) -> Run | None:
    """Lock `folder` and return the run to resume in it; None for a new run.

    `requested`: the value of `resume`. UsageError when another process is using the folder, or it holds no run.
    """
    if requested is None or (requested == AUTO and not folder.has_status):
        return None
    if requested != AUTO and Path(requested).resolve() != folder.path.resolve():
        raise UsageError(f"resume={requested}: conflicts with hydra.run.dir={folder.path}. A run resumes in its own folder.")
    require_run(folder.path)
    refuse_strange_files(folder.path)
    folder.lock()
    return read_run(folder.path)


def can_resume(path: Path) -> bool:
    """Return whether `path` holds an incomplete run with a valid checkpoint, so that a job of the same configuration, started
    there with `resume=auto`, resumes it."""
    try:
        run = read_run(path)
    except UsageError:
        return False
    is_incomplete = run.state in ("interrupted", "lost", "failed") and not is_held(path)
    return is_incomplete and not strange_files(path) and newest_valid(path) is not None


def refuse_changes(run: Run, config: Mapping[str, Any]) -> None:
    """Raise UsageError when the run has ended, or `config` differs from the run's; the message shows the differences."""
    changed = differences(run.config, config)
    forbidden = {key: values for key, values in changed.items() if key not in (*LENGTH, *CHANGEABLE)}
    if forbidden:
        changes = [f"{key}: {old} -> {new}" for key, (old, new) in list(forbidden.items())[:_MAX_DIFFERENCES]]
        more = f"; and {len(forbidden) - _MAX_DIFFERENCES} more" if len(forbidden) > _MAX_DIFFERENCES else ""
        raise UsageError(
            f"{run.folder}: the configuration differs from this run's: {'; '.join(changes)}{more}. "
            "Resume with the same configuration, or start a new run without resume."
        )
    if run.state == "diverged":
        raise UsageError(
            f"{run.folder}: this run has diverged ({run.reason}) and would diverge again. Start a new run with other settings."
        )
    if run.state == "done" and not any(key in LENGTH for key in changed):
        raise UsageError(f"{run.folder}: this run is done. Extend it with trainer.epochs=... if its schedule allows that.")


def refuse_other_inputs(run: Run, inputs: Inputs) -> None:
    """Raise UsageError when the data or the code of own parts differ from the run's; the message shows the differences.

    A run that did not record its data is refused later, if its first batch differs. One that failed on a damaged image goes on
    with other images of the class of that image, since nothing could be done with the file as it was.
    """
    recorded = read_data(run.folder)
    is_same = not run.data or run.data == inputs.data_id or _is_repaired(run, recorded, inputs.data)
    data = "" if is_same else data_differences(recorded, inputs.data)
    code = code_differences(run.code, inputs.code) if run.code is not None else ""
    for what, difference in (("the data differ", data), ("the code of its parts differs", code)):
        if difference:
            raise UsageError(
                f"{run.folder}: {what} from this run's: {difference}. Restore what it was made with, or start a new run "
                "without resume."
            )


def _is_repaired(run: Run, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether the data differ only in the class of the damaged image on which the run failed."""
    image, found, _ = run.reason.partition(CANNOT_DECODE)
    classes = [name for name in old.get("classes", ()) if name in Path(image).parts[:-1]]
    if not found or not classes or old["classes"] != new.get("classes"):
        return False
    return any(without_class(old, name) == without_class(new, name) for name in classes)


def validate_length(run: Run, settings: Settings, schedule: Schedule, done: int, steps_per_epoch: int) -> None:
    """Raise UsageError when the new length does not fit the `done` steps of `run`."""
    from train.run.fingerprint import chosen_name  # imports torch

    old_steps = total_steps(check(TrainerSettings, "trainer", run.config["trainer"]), steps_per_epoch)
    new_steps = total_steps(settings.trainer, steps_per_epoch)
    if run.state == "done" and done < old_steps:
        raise UsageError(f"{run.folder}: this run is done, but without a checkpoint of its last step it cannot be extended.")
    if new_steps != old_steps or done > new_steps:
        refuse_new_length(schedule, chosen_name(settings, "schedule"), old_steps, new_steps, done)


def refuse_new_length(schedule: Schedule, name: str, before: int, after: int, done: int) -> None:
    """Raise UsageError unless the first `done` steps are the same in a run of `before` and in a run of `after` steps."""
    if after < done:
        raise UsageError(f"trainer.epochs, trainer.max_steps: {after} steps are fewer than the {done} that this run has done.")
    mismatch = next((step for step in range(done) if schedule(step, before) != schedule(step, after)), None)
    if mismatch is not None:
        raise UsageError(
            f"trainer.epochs, trainer.max_steps: from {before} to {after} steps the schedule {name} changes steps already done: "
            f"at step {mismatch} of {done} the learning rate would be {schedule(mismatch, after):.4g} times the "
            f"optimizer's instead of {schedule(mismatch, before):.4g} times. Use schedule=constant or start a new run."
        )


def resume_identity(config: Mapping[str, Any], version: int = VERSION) -> str:
    """Return the identity of a run: the same for all configurations with which it may resume."""
    content = copy.deepcopy({str(key): value for key, value in config.items()})
    for key in (*LENGTH, *DATA_SOURCE):
        group, _, name = key.partition(".")
        if isinstance(content.get(group), dict):
            content[group].pop(name, None)
    return identity(content, version)


def resume_identities(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `resume_identity` in every version, as a checkpoint may be of any."""
    return tuple(resume_identity(config, version) for version in range(1, VERSION + 1))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (old value, new value) of the settings that differ."""
    before, after = flatten(upgraded(old)), flatten(upgraded(new))
    pairs = {key: (before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in [*before, *after]}
    return {key: (left, right) for key, (left, right) in pairs.items() if left != right or type(left) is not type(right)}


def restore_run(
    loop: Loop, previous: Run, found: FoundCheckpoint, saver: CheckpointSaver, metrics_file: Path
) -> Mapping[str, Any] | None:
    """Restore `loop`, its sink and the run folder to the checkpoint `found`. RunError when the data have changed.

    Return the state of the loop that was loaded; None without a checkpoint.
    """
    sink = loop.sink
    saver.discard_after(found.step)
    for note in [*found.notes, *version_changes(previous.status)]:
        sink.message(note, "warning")
    checkpoint = found.pop()
    if checkpoint is None:
        sink.message("No checkpoint found; starting from step 0.")
        return None
    saver.refuse_other_data(checkpoint)
    try:
        for record in read_records(metrics_file):
            sink.restore(record)
        loop.load_state(checkpoint.loop)
    except (RunError, OSError) as error:
        raise UsageError(str(error)) from None
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"{previous.folder}: its checkpoint does not fit ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    sink.message(f"Resuming at step {checkpoint.step}.")
    return checkpoint.loop


def unusable(previous: Run | None, error: BaseException) -> str:
    """Return what is said of an error that nobody explains in a run that is resumed; empty for one that is to be seen as it is.

    The folder may be a stranger's, whose configuration can name any of the functions that may be called in the place of another.
    With packages to trust, the error may be one of the user's own code.
    """
    if previous is None or trusted() or not isinstance(error, Exception):
        return ""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return (
        f"{previous.folder}: what this folder holds cannot be used ({message[:200]}). TRAIN_FULL_ERROR=1 shows where it failed."
    )


def version_changes(status: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the versions that changed since the run started, or an empty list."""
    old, new = dict(status.get("versions") or {}), versions()
    changes = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    return [f"Versions changed since the run started ({', '.join(changes)}); resuming may not be bit-exact."] if changes else []


def require_run(path: Path) -> None:
    """Raise UsageError when there is no run in the folder."""
    if Folder(path).exists(STATUS_FILE):
        return
    manifest = read_manifest(path)
    if manifest is not None:
        command, note = stored_command(manifest.command, path), left_out(manifest.command[1:])
        raise UsageError(f"resume={path}: this is a sweep. To resume it: {command}{note and f' ({note})'}")
    raise UsageError(f"resume={path}: there is no run in this folder (no status.json).")
