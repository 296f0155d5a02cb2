"""What a sweep folder already holds of a plan, what of it counts, and where old attempts go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from train.errors import UsageError
from train.run.resume import can_resume
from train.store.code import other_code
from train.store.manifest import PlannedRun
from train.store.run import FINISHED, PREVIOUS, Run, find_runs, read_run
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
"""`sweep.rerun` -> the kinds of run that are made. A run that is going on is never among them."""


@dataclass(frozen=True)
class RunStatus:
    """Where one planned run stands before this command does anything; `run` is its latest attempt, None when there is none."""

    planned: PlannedRun
    kind: Kind
    run: Run | None = None


@dataclass(frozen=True)
class ScheduledRun:
    """A run to be made, in its folder. `continues`: from the checkpoint that is there."""

    planned: PlannedRun
    resumes: bool = False


def run_statuses(folder: Path, planned: Iterable[PlannedRun], reuse_other_code: bool) -> list[RunStatus]:
    """By identity: the folders may have any names."""
    known = runs_by_identity(folder)
    return [RunStatus(run, reuse_kind(known.get(run.identity), reuse_other_code), known.get(run.identity)) for run in planned]


def reuse_kind(run: Run | None, reuse_other_code: bool) -> Kind:
    if run is None:
        return "missing"
    if run.state == "running":
        return "running"
    if run.state not in FINISHED:
        return "failed"
    if not reuse_other_code and other_code(run.status):
        return "outdated"
    return "diverged" if run.state == "diverged" else "done"


def runs_by_identity(folder: Path) -> dict[str, Run]:
    """Of several attempts at one experiment, the one that ended; damaged folders are passed over."""
    found: dict[str, Run] = {}
    for path in find_runs([folder]):
        try:
            run = read_run(path)
        except UsageError:
            continue
        if run.identity not in found or (run.state in (*FINISHED, "running")):
            found[run.identity] = run
    return found


def prepare_folder(sweep: Path, standing: RunStatus, may_continue: bool) -> ScheduledRun:
    """Decide, here and nowhere else, what happens to an attempt that is to be made again: it goes on from its checkpoint where it
    has one, else it moves to the folder of previous attempts, as does whatever else lies where the run will go."""
    run = standing.run
    if may_continue and run is not None and standing.kind == "failed" and not other_code(run.status) and can_resume(run.folder):
        return ScheduledRun(replace(standing.planned, folder=str(run.folder.relative_to(sweep))), resumes=True)
    for folder in {run.folder if run else sweep / standing.planned.folder, sweep / standing.planned.folder}:
        if folder.exists():
            archive(sweep, folder)
    return ScheduledRun(standing.planned)


def archive(sweep: Path, folder: Path) -> Path:
    """Move a run folder out of the sweep's sight, and keep it. Returns where it is now."""
    shelf = sweep / PREVIOUS
    shelf.mkdir(exist_ok=True)
    attempt = 1
    while (place := shelf / f"{folder.name}.{attempt}").exists():
        attempt += 1
    return folder.rename(place)
