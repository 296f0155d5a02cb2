"""Changes of a sweep's manifest. A sweep plans in it, and reports add their looks, maybe at the same time: none is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train.store.files import MANIFEST_LOCK
from train.store.lock import held_briefly
from train.store.manifest import Manifest, as_planned, read_manifest, write_manifest
from train.store.plans import Look, with_look


def update_manifest(folder: Path, change: Callable[[Manifest | None], Manifest]) -> Manifest:
    """Write what `change` makes of the manifest in `folder` (None if there is none) while no other process changes it; return it.

    OSError when the folder cannot be written. UsageError as of `read_manifest`.
    """
    with held_briefly(folder, MANIFEST_LOCK):
        manifest = change(read_manifest(folder))
        write_manifest(folder, manifest)
    return manifest


def add_look(folder: Path, look: Look) -> None:
    """Add a look to the manifest in `folder`, and leave all else in it as it is. OSError when the folder cannot be written.

    UsageError as of `read_manifest`; nothing happens if there is none.
    """
    with held_briefly(folder, MANIFEST_LOCK):
        manifest = read_manifest(folder)
        looks = () if manifest is None else with_look(manifest.looks, look)
        if manifest is not None and looks != manifest.looks:
            write_manifest(folder, replace(manifest, plans=manifest.plans or (as_planned(manifest),), looks=looks))


def of_plans(manifest: Manifest, count: int) -> Manifest:
    """Return the manifest as the first `count` plans (at least one) made it; unchanged where it records none."""
    if not manifest.plans:
        return manifest
    count = min(max(count, 1), len(manifest.plans))
    plan = manifest.plans[count - 1]
    runs = tuple(run for run in manifest.runs if run.plan < count)
    planned = {run.tries or run.arm for run in runs}
    arms = tuple(arm for arm in manifest.arms if arm.id in planned)
    axes = {axis: levels for axis, levels in manifest.axes.items() if any(axis in arm.levels for arm in arms)}
    baseline = plan.baseline if plan.baseline in planned else manifest.baseline
    return replace(
        manifest,
        design=plan.design,
        axes=axes,
        baseline=baseline,
        arms=arms,
        runs=runs,
        tune=plan.tune,
        plans=manifest.plans[:count],
    )
