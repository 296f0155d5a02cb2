"""The runs and sweeps below folders, as a list needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.errors import UsageError
from train.naming import arm_names
from train.store.files import MANIFEST_FILE
from train.store.inside import is_there
from train.store.manifest import Manifest, read_manifest
from train.store.notes import is_archived
from train.store.run import ARCHIVED, Run, find_runs, read_run, subfolders


@dataclass(frozen=True)
class Found:
    """What lies below `folders`.

    `runs`: sorted by folder; `sweeps`: the folder of a sweep -> its manifest, None for one that cannot be read; `unreadable`:
    folder -> the reason; `archived`: the number of runs and sweeps that are left out.
    """

    folders: tuple[Path, ...]
    runs: tuple[Run, ...]
    sweeps: Mapping[Path, Manifest | None]
    unreadable: Mapping[Path, str]
    archived: int = 0

    def sweep_of(self, run: Run) -> Path | None:
        """Return the folder of the sweep that a run is in; None for a run of its own."""
        return run.folder.parent if run.folder.parent in self.sweeps else None


def find(folders: Sequence[Path], archived: bool = False) -> Found:
    """Read the runs and sweeps in and below `folders`, also those that are archived if asked for.

    UsageError when one of the folders does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder. Name one with runs; `train` makes them in outputs.")
    unreadable: dict[Path, str] = {}
    runs: list[Run] = []
    for path in find_runs(folders, unreadable.__setitem__, archived):
        try:
            runs.append(read_run(path, whole=False))
        except UsageError as error:
            unreadable[path] = str(error).removeprefix(f"{path}: ")
    hidden = [path for path, reason in unreadable.items() if reason == ARCHIVED]
    for path in hidden:
        del unreadable[path]
    return Found(tuple(folders), tuple(runs), dict(_sweeps(folders, runs, archived)), unreadable, len(hidden))


def _sweeps(folders: Iterable[Path], runs: Iterable[Run], archived: bool) -> Iterable[tuple[Path, Manifest | None]]:
    """Yield the folders of sweeps: those of the runs, and those in and right below `folders`, which may have no run yet."""
    parents = dict.fromkeys(run.folder.parent for run in runs)
    below = [path for top in folders for path in (top, *(top / name for name in subfolders(top)))]
    for path in dict.fromkeys((*parents, *(path for path in below if archived or path in folders or not is_archived(path)))):
        if is_there(path / MANIFEST_FILE):
            try:
                yield path, read_manifest(path)
            except UsageError:
                yield path, None


def arm_names_of(found: Found) -> dict[Path, str]:
    """Return run folder -> what it changes: in a sweep the levels of its arm, else the overrides that not all others have."""
    alone = [run for run in found.runs if found.sweep_of(run) is None]
    common = set.intersection(*(set(run.arm_overrides) for run in alone)) if len(alone) > 1 else set()
    levels = {folder: _planned_names(manifest) for folder, manifest in found.sweeps.items() if manifest}
    return {run.folder: _arm_name(run, levels.get(run.folder.parent), common) for run in found.runs}


def _planned_names(manifest: Manifest) -> dict[str, str]:
    """Return the names of the arms, by id, as a page has them."""
    tuned = {*manifest.tune}
    levels = {arm.id: {key: level for key, level in arm.levels.items() if key not in tuned} for arm in manifest.arms}
    return arm_names(levels, manifest.baseline, combinations=manifest.design == "grid")


def _arm_name(run: Run, levels: Mapping[str, str] | None, common: set[str]) -> str:
    if levels is not None:
        return levels.get(run.arm) or " ".join(run.arm_overrides) or "defaults"
    return " ".join(line for line in run.arm_overrides if line not in common) or "defaults"
