"""The folder of a sweep, and its manifest, built from the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from train.command import override
from train.errors import UsageError
from train.report.make import ReportOptions
from train.store.files import MANIFEST_FILE
from train.store.inside import Folder
from train.store.manifest import Manifest, PlannedArm, PlannedRun
from train.store.run import subfolders
from train.sweep.axes import Axis
from train.sweep.plan import SweepPlan


def newest_sweep(parent: Path) -> Path:
    """Return the sweep folder in `parent` whose plan was written last. UsageError when there is none."""
    found = [(parent / name, Folder(parent / name).stat(MANIFEST_FILE)) for name in subfolders(parent)]
    plans = sorted((plan.st_mtime, folder) for folder, plan in found if plan is not None)
    if not plans:
        remedy = "Omit it to start a new sweep, or name a sweep with hydra.sweep.dir=FOLDER."
        raise UsageError(f"sweep.resume=last: there is no sweep in {parent}. {remedy}")
    return plans[-1][1]


def set_sweep_dir(master: DictConfig, folder: Path) -> None:
    """Set the sweep's folder for the launcher and for every job composed from `master` later, in any process."""
    with open_dict(master):
        master.hydra.sweep.dir = str(folder)
        other_overrides = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.sweep.dir=")]
        master.hydra.overrides.hydra = [*other_overrides, override("hydra.sweep.dir", str(folder))]


def build_manifest(
    plan: SweepPlan, runs: Iterable[PlannedRun], command: Sequence[str], study: str, notes: Sequence[str], report: ReportOptions
) -> Manifest:
    """Build the manifest of a plan. `runs`: those of the plan, with the folders they have or will have."""
    return Manifest(
        command=tuple(command),
        design=plan.design,
        axes=_levels(plan.request.axes),
        seeds=_levels(plan.request.seeds),
        baseline=plan.baseline.id,
        arms=tuple(PlannedArm(arm.id, dict(arm.levels), arm.overrides, arm.tuned, arm.data) for arm in plan.arms),
        runs=tuple(runs),
        dropped=plan.dropped,
        zipped=plan.zipped,
        study=study,
        notes=tuple(notes),
        tune=plan.tune,
        metric=report.metric,
        smallest_effect=report.smallest_effect,
        first_batches=plan.first_batches,
    )


def _levels(axes: Iterable[Axis]) -> dict[str, tuple[str, ...]]:
    return {axis.name: tuple(dict.fromkeys(axis.levels)) for axis in axes}
