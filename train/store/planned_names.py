"""The names of what a sweep plans: of its arms, as every output calls them, and of its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from train.errors import UsageError
from train.naming import arm_names
from train.store.manifest import Design, Manifest, PlannedArm, read_manifest
from train.store.overrides import key_of


def names_of(arms: Sequence[PlannedArm], baseline: str, design: Design, factors: Iterable[str]) -> dict[str, str]:
    """Return arm's id -> its name. Arms that differ in tuned keys alone share one, since they are compared as one.

    `baseline`: its id; `factors`: the axes without the tuned ones.
    """
    compared = {arm.id: arm.tuned or arm.id for arm in arms}
    factors = list(factors)
    levels = {compared[arm.id]: {axis: arm.levels[axis] for axis in factors if axis in arm.levels} for arm in arms}
    names = arm_names(levels, compared.get(baseline, baseline), combinations=design == "grid")
    return {id: names[name] for id, name in compared.items()}


def names_in(manifest: Manifest) -> dict[str, str]:
    """Return arm's id -> its name, for the arms of a manifest."""
    factors = [axis for axis in manifest.axes if axis not in manifest.tune]
    return names_of(manifest.arms, manifest.baseline, manifest.design, factors)


def run_names(folder: Path) -> dict[tuple[str, ...], str]:
    """Return overrides -> name of the runs that the plan in `folder` has: `norm=none at optimizer.lr=0.1 seed=2`.

    Empty without a plan that can be read.
    """
    with suppress(UsageError):
        if manifest := read_manifest(folder):
            names = names_in(manifest)
            return {run.overrides: _run_name(names.get(run.arm, ""), run.overrides, manifest) for run in manifest.runs}
    return {}


def trial_runs(folder: Path) -> set[tuple[str, ...]]:
    """Return the overrides of those runs of the plan in `folder` that only try a level of tuned keys."""
    with suppress(UsageError):
        if manifest := read_manifest(folder):
            return {run.overrides for run in manifest.runs if run.tries}
    return set()


def _run_name(arm: str, overrides: Sequence[str], manifest: Manifest) -> str:
    tuned = _of_keys(overrides, manifest.tune)
    return " ".join(filter(None, [arm, *(["at", *tuned] if tuned else []), *_of_keys(overrides, manifest.seeds)]))


def _of_keys(overrides: Iterable[str], keys: Collection[str]) -> list[str]:
    return [override for override in overrides if key_of(override) in keys]


def planned_arm(folder: Path) -> str:
    """Return the name of the arm of the run in `folder`, by the plan in the folder above; empty without one."""
    with suppress(UsageError):
        if manifest := read_manifest(folder.parent):
            arm = next((run.arm for run in manifest.runs if run.folder == folder.name), "")
            return names_in(manifest).get(arm, "")
    return ""
