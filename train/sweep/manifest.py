"""Building the manifest of a sweep from its plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from train.report.make import ReportOptions
from train.store.manifest import Manifest, PlannedArm, PlannedRun
from train.sweep.axes import Axis
from train.sweep.plan import SweepPlan


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
        arms=tuple(PlannedArm(arm.id, dict(arm.levels), arm.overrides, arm.tuned) for arm in plan.arms),
        runs=tuple(runs),
        dropped=plan.dropped,
        zipped=plan.zipped,
        study=study,
        notes=tuple(notes),
        tune=plan.tune,
        metric=report.metric,
        smallest_effect=report.smallest_effect,
    )


def _levels(axes: Iterable[Axis]) -> dict[str, tuple[str, ...]]:
    return {axis.name: tuple(dict.fromkeys(axis.levels)) for axis in axes}
