"""Building `sweep.json` from a plan and merging it with the plans of earlier commands in the same folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from train.run.folder import write_atomic
from train.store.manifest import FILE_NAME, Manifest, PlannedArm, PlannedRun
from train.sweep.axes import Axis
from train.sweep.plan import SweepPlan


def build_manifest(
    plan: SweepPlan, runs: Iterable[PlannedRun], command: Sequence[str], study: str, notes: Sequence[str]
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
    )


def merge_manifests(old: Manifest | None, new: Manifest) -> Manifest:
    """Return everything planned in the folder so far and not dropped since. Where the two conflict, `new` takes precedence.

    A command that repeats a part of `old` leaves its command, design, baseline and tuned keys unchanged.
    """
    if old is None:
        return new
    identities = {run.identity for run in new.runs}
    if identities < {run.identity for run in old.runs}:  # a part was repeated; the study is still the whole
        old_arms = {arm.id: arm for arm in old.arms}
        arms_as_before = tuple(old_arms.get(arm.id, arm) for arm in new.arms)
        new = replace(new, command=old.command, design=old.design, baseline=old.baseline, tune=old.tune, arms=arms_as_before)
    arms = {arm.id for arm in new.arms}
    dropped = {item.overrides for item in new.dropped} | {arm.overrides for arm in (*old.arms, *new.arms)}
    return replace(
        new,
        axes=_union(old.axes, new.axes),
        seeds=_union(old.seeds, new.seeds),
        arms=new.arms + tuple(arm for arm in old.arms if arm.id not in arms),
        runs=new.runs + tuple(run for run in old.runs if run.identity not in identities),
        dropped=new.dropped + tuple(item for item in old.dropped if item.overrides not in dropped),
        zipped=tuple(dict.fromkeys((*old.zipped, *new.zipped))),
        study=new.study or old.study,
        notes=tuple(dict.fromkeys((*old.notes, *new.notes))),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `sweep.json` atomically: a reader sees either the old plan or the new one."""
    write_atomic(folder / FILE_NAME, manifest.as_json().encode())


def _levels(axes: Iterable[Axis]) -> dict[str, tuple[str, ...]]:
    return {axis.name: tuple(dict.fromkeys(axis.levels)) for axis in axes}


def _union(old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {axis: tuple(dict.fromkeys((*old.get(axis, ()), *new.get(axis, ())))) for axis in (*old, *new)}
