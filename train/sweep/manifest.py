"""The folder of a sweep, and its manifest, built from the plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, open_dict

from train.command import override
from train.errors import UsageError, remedy
from train.report.analyses import check_plan
from train.report.options import ReportOptions
from train.store.files import MANIFEST_FILE
from train.store.identity import VERSION
from train.store.inside import Folder
from train.store.lock import Lock
from train.store.manifest import (
    Manifest,
    PlannedArm,
    PlannedRun,
    as_planned,
    merge_manifests,
    read_manifest,
    upgraded_manifest,
)
from train.store.manifest_update import update_manifest
from train.store.plans import now
from train.store.run import subfolders
from train.sweep.axes import Axis
from train.sweep.plan import SweepPlan
from train.sweep.reuse import stored_runs


def newest_sweep(parent: Path) -> Path:
    """Return the sweep folder in `parent` whose plan was written last. UsageError when there is none."""
    found = [(parent / name, Folder(parent / name).stat(MANIFEST_FILE)) for name in subfolders(parent)]
    plans = sorted((plan.st_mtime, folder) for folder, plan in found if plan is not None)
    if not plans:
        hint = "Omit it to start a new sweep, or name a sweep with hydra.sweep.dir=FOLDER."
        raise UsageError(f"sweep.resume=last: there is no sweep in {parent}. {hint}")
    return plans[-1][1]


def set_sweep_dir(master: DictConfig, folder: Path) -> None:
    """Set the sweep's folder for the launcher and for every job composed from `master` later, in any process."""
    with open_dict(master):
        master.hydra.sweep.dir = str(folder)
        other_overrides = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.sweep.dir=")]
        master.hydra.overrides.hydra = [*other_overrides, override("hydra.sweep.dir", str(folder))]


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise UsageError, with what to do, for an error of the system that shows that the sweep's folder cannot be written."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise UsageError(f"hydra.sweep.dir={folder}: this folder cannot be written ({what}).{remedy(error)}") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder inside the block. UsageError when another command does."""
    lock = Lock(folder)
    try:
        if (holder := lock.acquire()) is not None:
            raise UsageError(f"{folder}: another command is using this sweep folder (process {holder}). Wait for it, or stop it.")
        yield
    finally:
        with suppress(OSError):  # it is released when this process ends
            lock.release()


def existing_manifest(folder: Path, planned: Manifest) -> Manifest | None:
    """Return the manifest of earlier commands in `folder`, with ids of the present version; None when there is none."""
    return _upgraded(read_manifest(folder), folder, planned)


def add_plan(folder: Path, planned: Manifest) -> None:
    """Write what is planned now to `sweep.json`, together with what earlier commands planned there. OSError as of writing."""
    update_manifest(folder, lambda old: merge_manifests(_upgraded(old, folder, planned), planned))


def _upgraded(manifest: Manifest | None, folder: Path, planned: Manifest) -> Manifest | None:
    if manifest is None or manifest.identity_version == VERSION:
        return manifest
    return upgraded_manifest(manifest, stored_runs(folder, planned), planned)


def build_manifest(
    plan: SweepPlan, runs: Iterable[PlannedRun], command: Sequence[str], study: str, notes: Sequence[str], report: ReportOptions
) -> Manifest:
    """Build the manifest of a plan. `runs`: those of the plan, with the folders they have or will have."""
    runs = tuple(runs)
    used = {run.arm for run in runs} | {run.tries for run in runs}
    arms = (*plan.arms, *(arm for arm in plan.reserve if arm.id in used))
    manifest = Manifest(
        command=tuple(command),
        design=plan.design,
        axes=_levels(plan.request.axes),
        seeds=_levels(plan.request.seeds),
        baseline=plan.baseline.id,
        arms=tuple(PlannedArm(arm.id, dict(arm.levels), arm.overrides, arm.tuned, arm.data) for arm in arms),
        runs=runs,
        dropped=plan.dropped,
        zipped=plan.zipped,
        study=study,
        notes=tuple(notes),
        tune=plan.tune,
        metric=report.metric,
        smallest_effect=report.smallest_effect,
        first_batches=plan.first_batches,
        tuning=plan.tuning,
        analysis=report.analysis or "arms",
    )
    return replace(manifest, plans=(as_planned(manifest, now()),))


def check_analysis(plan: SweepPlan, study: str, report: ReportOptions) -> None:
    """Check that what the page is to answer can be answered by such runs. UsageError otherwise."""
    planned = build_manifest(plan, plan.possible_runs, (), study, (), report)
    check_plan(report, planned, {arm.id: arm.config for arm in (*plan.arms, *plan.reserve)})


def _levels(axes: Iterable[Axis]) -> dict[str, tuple[str, ...]]:
    return {axis.name: tuple(dict.fromkeys(axis.levels)) for axis in axes}
