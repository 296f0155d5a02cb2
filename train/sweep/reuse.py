"""The state of planned runs in a sweep folder: which attempts are reused, resumed or archived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from train.errors import UsageError
from train.run.resume import can_resume
from train.store.code import code_difference
from train.store.files import PREVIOUS
from train.store.manifest import PlannedRun
from train.store.run import FINISHED, Run, find_runs, read_run
from train.sweep.settings import Rerun

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
    """The state of a planned run before this command starts jobs. `run`: its latest attempt, or None."""

    planned: PlannedRun
    kind: Kind
    run: Run | None = None


@dataclass(frozen=True)
class ScheduledRun:
    """A run to launch in its folder. `resumes`: whether it starts from the checkpoint in that folder."""

    planned: PlannedRun
    resumes: bool = False


def run_statuses(folder: Path, planned: Iterable[PlannedRun], reuse_other_code: bool) -> list[RunStatus]:
    """Return the status of each planned run. Attempts are matched by identity: their folders may have any name."""
    runs = runs_by_identity(folder)
    return [RunStatus(run, reuse_kind(runs.get(run.identity), reuse_other_code), runs.get(run.identity)) for run in planned]


def reuse_kind(run: Run | None, reuse_other_code: bool) -> Kind:
    if run is None:
        return "missing"
    if run.state == "running":
        return "running"
    if run.state not in FINISHED:
        return "failed"
    if not reuse_other_code and code_difference(run.status):
        return "outdated"
    return "diverged" if run.state == "diverged" else "done"


def runs_by_identity(folder: Path) -> dict[str, Run]:
    """Return identity -> run. Finished and running attempts take precedence; damaged folders are skipped."""
    runs: dict[str, Run] = {}
    for path in find_runs([folder]):
        try:
            run = read_run(path)
        except UsageError:
            continue
        if run.identity not in runs or (run.state in (*FINISHED, "running")):
            runs[run.identity] = run
    return runs


def prepare_folder(sweep: Path, status: RunStatus, may_resume: bool) -> ScheduledRun:
    """Resume a failed attempt from its checkpoint if it has one; otherwise archive it under `previous/`.

    Anything else in the folder that the new attempt will use is archived too. No other code decides this.
    """
    run = status.run
    if may_resume and run is not None and status.kind == "failed" and not code_difference(run.status) and can_resume(run.folder):
        return ScheduledRun(replace(status.planned, folder=str(run.folder.relative_to(sweep))), resumes=True)
    for folder in {run.folder if run else sweep / status.planned.folder, sweep / status.planned.folder}:
        if folder.exists():
            archive(sweep, folder)
    return ScheduledRun(status.planned)


def archive(sweep: Path, folder: Path) -> Path:
    """Move a run folder to the sweep's `previous/`, which `find_runs` skips, and return its new path."""
    previous = sweep / PREVIOUS
    previous.mkdir(exist_ok=True)
    attempt = 1
    while (target := previous / f"{folder.name}.{attempt}").exists():
        attempt += 1
    return folder.rename(target)
