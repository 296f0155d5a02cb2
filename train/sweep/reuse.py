"""The state of planned runs in a sweep folder: which attempts are reused, resumed or archived."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from train.errors import UsageError, remedy
from train.run.checkpoint import newest_valid
from train.run.resume import can_resume, differences, user_overrides
from train.store.code import code_difference
from train.store.files import PREVIOUS
from train.store.identity import SEEDS
from train.store.inputs import Inputs, code_differences, data_differences, read_data, some
from train.store.inside import Folder, is_there
from train.store.lock import is_held
from train.store.manifest import Manifest, PlannedRun, experiment_overrides, read_manifest
from train.store.records import reach
from train.store.run import FINISHED, Run, find_runs, read_run
from train.store.unrecorded import with_known_data
from train.sweep.design import ComposedArm
from train.sweep.settings import Rerun
from train.sweep.submissions import held_folders

Kind: TypeAlias = Literal["missing", "failed", "outdated", "diverged", "done", "running"]

RERUN_KINDS: Mapping[Rerun, frozenset[Kind]] = {
    "unfinished": frozenset({"missing", "failed", "outdated"}),
    "missing": frozenset({"missing"}),
    "failed": frozenset({"failed"}),
    "diverged": frozenset({"missing", "failed", "outdated", "diverged"}),
    "all": frozenset({"missing", "failed", "outdated", "diverged", "done"}),
    "none": frozenset(),
}
"""`sweep.rerun` -> the kinds of planned runs that are launched. A running one is never among them."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a planned run before this command starts jobs.

    `run`: its latest attempt, or else the run that the same overrides made from other data or another YAML; `reason`: what has
    changed since, so that it is not reused, nor resumed; `is_other_code`: that is code alone.
    """

    planned: PlannedRun
    kind: Kind
    run: Run | None = None
    reason: str = ""
    is_other_code: bool = False


@dataclass(frozen=True)
class ScheduledRun:
    """A run to launch in its folder. `resumes`: whether it starts from the checkpoint in that folder."""

    planned: PlannedRun
    resumes: bool = False


def run_statuses(
    folder: Path,
    planned: Iterable[PlannedRun],
    reuse_other_code: bool,
    arms: Iterable[ComposedArm] = (),
    manifest: Manifest | None = None,
) -> list[RunStatus]:
    """Return the status of each planned run. Attempts are matched by identity: their folders may have any name.

    `arms`: those of the planned runs, if it is known what goes into them; `manifest`: see `stored_runs`.
    """
    runs, planned = stored_runs(folder, manifest), list(planned)
    attempts, identities = latest_attempts(runs), {item.identity for item in planned}
    others = {experiment_overrides(run.overrides): run for run in runs if run.identity not in identities}
    by_id = {arm.id: arm for arm in arms}
    statuses = []
    for item in planned:
        arm = by_id.get(item.arm)
        if (run := attempts.get(item.identity)) is not None:
            statuses.append(_status_of_attempt(item, run, arm.inputs if arm else Inputs(), reuse_other_code))
        elif arm and (other := others.get(experiment_overrides(user_overrides(item.overrides)))) is not None:
            kind = "running" if other.state == "running" else "outdated"
            statuses.append(RunStatus(item, kind, other, _other_experiment(other, arm)))
        else:
            statuses.append(RunStatus(item, "missing"))
    return _with_queued(folder, statuses)


def _with_queued(folder: Path, statuses: Sequence[RunStatus]) -> list[RunStatus]:
    """Return the statuses, with runs that Slurm holds as `running`: its jobs make them sooner or later."""
    queued = queued_runs(folder) if any(status.kind not in ("done", "diverged") for status in statuses) else set()
    return [replace(s, kind="running") if s.planned.identity in queued and s.kind not in FINISHED else s for s in statuses]


def queued_runs(folder: Path) -> set[str]:
    """Return the identities of the runs of a sweep whose jobs Slurm holds. UsageError as of `held_folders`."""
    held = held_folders(folder)
    manifest = read_manifest(folder) if held else None
    return {run.identity for run in manifest.runs if run.folder in held} if manifest else set()


def _status_of_attempt(planned: PlannedRun, run: Run, inputs: Inputs, reuse_other_code: bool) -> RunStatus:
    if run.state == "running":
        return RunStatus(planned, "running", run)
    code = code_difference(run.status) or _own_code(run, inputs)
    if run.state not in FINISHED:
        return RunStatus(planned, "failed", run, code, is_other_code=bool(code))
    if inputs.data and run.data_known == "unknown":
        return RunStatus(planned, "outdated", run, "made from data that are not recorded, and the first batch was another one")
    if code and not reuse_other_code:
        return RunStatus(planned, "outdated", run, code, is_other_code=True)
    return RunStatus(planned, "diverged" if run.state == "diverged" else "done", run)


def _own_code(run: Run, inputs: Inputs) -> str:
    difference = code_differences(run.code, inputs.code)
    return f"made with other code of its parts: {difference}" if difference else ""


def _other_experiment(run: Run, arm: ComposedArm) -> str:
    """Return why a run that the same overrides made is another experiment now."""
    changed = {key: values for key, values in differences(run.config, arm.config).items() if key.partition(".")[0] not in SEEDS}
    if changed:
        return f"made with another configuration: {some([f'{key}: {old} -> {new}' for key, (old, new) in changed.items()], '; ')}"
    return f"made from other data: {data_differences(read_data(run.folder), arm.inputs.data)}"


def stored_runs(folder: Path, planned: Manifest | None = None) -> list[Run]:
    """Return the runs in a sweep's folder; damaged ones are skipped.

    `planned`: of the command that is planned, if there is one. It and the manifest in the folder tell the data of runs that do
    not record them.
    """
    runs = []
    for path in find_runs([folder]):
        with suppress(UsageError):
            runs.append(read_run(path))
    return with_known_data(runs, [manifest for manifest in (read_manifest(folder), planned) if manifest is not None])


def latest_attempts(runs: Iterable[Run]) -> dict[str, Run]:
    """Return identity -> run. Finished and running attempts take precedence."""
    attempts: dict[str, Run] = {}
    for run in runs:
        if run.identity not in attempts or (run.state in (*FINISHED, "running")):
            attempts[run.identity] = run
    return attempts


def prepare_folder(sweep: Path, status: RunStatus, may_resume: bool) -> ScheduledRun:
    """Resume a failed attempt from its checkpoint if it has one; otherwise archive it under `previous/`.

    Anything else in the folder that the new attempt will use is archived too. No other code decides this. OSError when it cannot
    be moved.
    """
    run = status.run
    if may_resume and run is not None and status.kind == "failed" and not status.reason and _can_resume(run):
        return ScheduledRun(replace(status.planned, folder=str(run.folder.relative_to(sweep))), resumes=True)
    for folder in {run.folder if run else sweep / status.planned.folder, sweep / status.planned.folder}:
        if is_there(folder):
            archive(sweep, folder)
    return ScheduledRun(status.planned)


def _can_resume(run: Run) -> bool:
    """Return whether the run can be resumed, and its records reach its checkpoint: otherwise it would never be complete."""
    if not can_resume(run.folder):
        return False
    checkpoint = newest_valid(run.folder)
    return checkpoint is not None and reach(run.folder, run.config, checkpoint.step)


def unmoved(error: OSError) -> str:
    """Return the sentence that a run folder could not be archived."""
    return f"what is in its folder cannot be moved away ({error.filename}: {error.strerror}).{remedy(error)}"


def archive(sweep: Path, folder: Path) -> Path:
    """Move a run folder, a link itself, to the sweep's `previous/`, which `find_runs` skips, and return its new path.

    OSError when it cannot be moved, or a process holds it.
    """
    if is_held(folder):
        raise OSError(errno.EBUSY, "another process is using it", str(folder))
    previous = (Folder(sweep) / PREVIOUS).make()
    attempt = 1
    while previous.exists(name := f"{folder.name}.{attempt}"):
        attempt += 1
    Folder(folder.parent).move(folder.name, previous, name)
    return previous.path / name


def set_aside(sweep: Path, folder: Path) -> str:
    """Archive the folder of an attempt. Return why that cannot be done, or an empty string."""
    try:
        archive(sweep, folder)
    except OSError as error:
        return unmoved(error)
    return ""
