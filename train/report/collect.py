"""Everything that lies in the given folders: the runs that count, what was planned, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.errors import UsageError
from train.store.manifest import FILE_NAME, Manifest, PlannedRun, read_manifest, upgraded_manifest
from train.store.run import FINISHED, Run, State, find_runs, read_run

FAILED: tuple[State, ...] = ("failed", "lost")


@dataclass(frozen=True)
class ExcludedRun:
    """A folder whose run is not counted, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep's `sweep.json` and the folder that it lies in."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Collection:
    """`runs`: each experiment once, in the order of their folders; `unreadable` and `repeated`: what was left aside."""

    folders: tuple[Path, ...]
    runs: tuple[Run, ...]
    plans: tuple[PlannedSweep, ...]
    unreadable: tuple[ExcludedRun, ...]
    repeated: tuple[ExcludedRun, ...]

    @property
    def missing(self) -> tuple[PlannedRun, ...]:
        """What was planned and is nowhere in the folders."""
        found = {run.identity for run in self.runs}
        planned = {run.identity: run for plan in self.plans for run in plan.manifest.runs}
        return tuple(run for identity, run in planned.items() if identity not in found)


def collect(folders: Sequence[Path]) -> Collection:
    """UsageError when a folder does not exist, or none of them holds a run or the plan of one."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder}: there is no such folder. Name folders of runs or of sweeps, such as outputs/2026-01-31_sweep."
            )
    unreadable: list[ExcludedRun] = []
    runs: list[Run] = []
    for path in find_runs(folders):
        try:
            runs.append(read_run(path))
        except UsageError as error:
            unreadable.append(ExcludedRun(path, str(error).removeprefix(f"{path}: ")))
    plans = tuple(_plans(folders, runs, unreadable))
    if not runs and not plans:
        raise UsageError(_nothing(folders, unreadable))
    counted, repeated = _once_each(runs)
    return Collection(tuple(folders), counted, plans, tuple(unreadable), repeated)


def _nothing(folders: Sequence[Path], unreadable: Sequence[ExcludedRun]) -> str:
    said = f"{', '.join(map(str, folders))}: no run found here or below. A run folder holds status.json and config.yaml."
    if unreadable:
        said += f" Of {len(unreadable)} that cannot be read, the first is {unreadable[0].folder}: {unreadable[0].reason}"
    return said


def _plans(folders: Iterable[Path], runs: Sequence[Run], unreadable: list[ExcludedRun]) -> Iterator[PlannedSweep]:
    """Of the sweeps in `folders` or right below them: a folder of sweeps is as good as a sweep."""
    seen: set[Path] = set()
    for top in folders:
        for folder in [top, *(path.parent for path in sorted(top.glob(f"*/{FILE_NAME}")))]:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                manifest = read_manifest(folder)
            except (UsageError, OSError) as error:
                unreadable.append(ExcludedRun(folder / FILE_NAME, str(error).removeprefix(f"{folder / FILE_NAME}: ")))
                continue
            if manifest is not None:
                yield PlannedSweep(folder, upgraded_manifest(manifest, runs))


def _once_each(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[ExcludedRun, ...]]:
    """Of the attempts at one experiment the best: two copies of a run are not two observations."""
    by_identity: dict[str, list[Run]] = {}
    for run in runs:
        by_identity.setdefault(run.identity or str(run.folder), []).append(run)
    chosen: list[Run] = []
    repeated: list[ExcludedRun] = []
    for attempts in by_identity.values():
        best = max(attempts, key=_worth)
        chosen.append(best)
        others = [run for run in attempts if run is not best]
        repeated += [ExcludedRun(run.folder, f"{run.state}; the same experiment is counted from {best.folder}") for run in others]
    place = {id(run): i for i, run in enumerate(runs)}
    return tuple(sorted(chosen, key=lambda run: place[id(run)])), tuple(repeated)


def _worth(run: Run) -> tuple[bool, bool, str]:
    """Ended before going on before the rest; of equals the one that started last."""
    return run.state in FINISHED, run.state == "running", str(run.status.get("started", ""))
