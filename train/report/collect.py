"""Collect the runs and plans in the given folders, and note what is excluded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.errors import UsageError
from train.store.files import MANIFEST_FILE
from train.store.manifest import Manifest, PlannedRun, read_manifest, upgraded_manifest
from train.store.run import FINISHED, Run, State, find_runs, read_run

FAILED: tuple[State, ...] = ("failed", "lost")


@dataclass(frozen=True)
class ExcludedRun:
    """A folder whose run is not counted, and the reason."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep's manifest (`sweep.json`) and its folder."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Collection:
    """The content of `folders`.

    `runs`: each experiment once, in the order of their folders; `unreadable` and `duplicates`: folders that are excluded.
    """

    folders: tuple[Path, ...]
    runs: tuple[Run, ...]
    plans: tuple[PlannedSweep, ...]
    unreadable: tuple[ExcludedRun, ...]
    duplicates: tuple[ExcludedRun, ...]

    @property
    def missing(self) -> tuple[PlannedRun, ...]:
        """Planned runs that have no folder."""
        present = {run.identity for run in self.runs}
        planned = {run.identity: run for plan in self.plans for run in plan.manifest.runs}
        return tuple(run for identity, run in planned.items() if identity not in present)


def collect(folders: Sequence[Path]) -> Collection:
    """Read the runs and plans in `folders`. UsageError when a folder does not exist or none has a run or plan."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder. Name folders of runs or of sweeps, such as outputs/2026-01-31_sweep.")
    unreadable: list[ExcludedRun] = []
    runs: list[Run] = []
    for path in find_runs(folders):
        try:
            runs.append(read_run(path))
        except UsageError as error:
            unreadable.append(ExcludedRun(path, str(error).removeprefix(f"{path}: ")))
    plans = tuple(_plans(folders, runs, unreadable))
    if not runs and not plans:
        raise UsageError(_nothing_found(folders, unreadable))
    counted, duplicates = _deduplicate(runs)
    return Collection(tuple(folders), counted, plans, tuple(unreadable), duplicates)


def _nothing_found(folders: Sequence[Path], unreadable: Sequence[ExcludedRun]) -> str:
    message = f"{', '.join(map(str, folders))}: no run found here or below. A run folder holds status.json and config.yaml."
    if unreadable:
        message += f" {len(unreadable)} cannot be read, the first is {unreadable[0].folder}: {unreadable[0].reason}"
    return message


def _plans(folders: Iterable[Path], runs: Sequence[Run], unreadable: list[ExcludedRun]) -> Iterator[PlannedSweep]:
    """Read the manifests in `folders` and one level below, so that a folder of sweeps works like a sweep."""
    visited: set[Path] = set()
    for top in folders:
        for folder in [top, *(path.parent for path in sorted(top.glob(f"*/{MANIFEST_FILE}")))]:
            if folder.resolve() in visited:
                continue
            visited.add(folder.resolve())
            try:
                manifest = read_manifest(folder)
            except (UsageError, OSError) as error:
                unreadable.append(ExcludedRun(folder / MANIFEST_FILE, str(error).removeprefix(f"{folder / MANIFEST_FILE}: ")))
                continue
            if manifest is not None:
                yield PlannedSweep(folder, upgraded_manifest(manifest, runs))


def _deduplicate(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[ExcludedRun, ...]]:
    """Keep the best attempt at each experiment: two copies of a run are not two observations."""
    by_identity: dict[str, list[Run]] = {}
    for run in runs:
        by_identity.setdefault(run.identity or str(run.folder), []).append(run)
    counted: list[Run] = []
    duplicates: list[ExcludedRun] = []
    for attempts in by_identity.values():
        best = max(attempts, key=_priority)
        counted.append(best)
        others = [run for run in attempts if run is not best]
        duplicates += [
            ExcludedRun(run.folder, f"{run.state}; the same experiment is counted from {best.folder}") for run in others
        ]
    position = {id(run): i for i, run in enumerate(runs)}
    return tuple(sorted(counted, key=lambda run: position[id(run)])), tuple(duplicates)


def _priority(run: Run) -> tuple[bool, bool, str]:
    """Return a sort key: finished runs rank above running ones, these above all others; ties go to the latest start."""
    return run.state in FINISHED, run.state == "running", str(run.status.get("started", ""))
