"""The manifest of a sweep (`sweep.json` in its folder): its arms and planned runs, which shows the missing ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from train.errors import UsageError
from train.store.files import MANIFEST_FILE, write_atomic
from train.store.identity import VERSION, arm_id, identity, is_execution_key, run_id
from train.store.overrides import dotted_key
from train.store.run import Run
from train.store.stored import read_stored

FORMAT = 1
Design: TypeAlias = Literal["grid", "one_at_a_time", "leave_one_out"]


@dataclass(frozen=True)
class PlannedArm:
    """An arm that the sweep plans.

    `id`: as in the status.json of its runs; `levels`: axis -> level, as typed; `overrides`: of the arm without seeds, as typed;
    `tuned`: the id that it shares with the arms that differ from it in tuned keys only, empty if no keys are tuned; `data`: the
    id of its data, empty if it is unknown.
    """

    id: str
    levels: Mapping[str, str]
    overrides: tuple[str, ...]
    tuned: str = ""
    data: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """A run that the sweep plans.

    `folder`: relative to the folder of the sweep; `overrides`: `train OVERRIDES` repeats it as a single run.
    """

    identity: str
    arm: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Dropped:
    """A combination of levels that was not run, and the reason."""

    overrides: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The content of `sweep.json`.

    `axes`: axis -> its levels in the order typed, without seeds; `seeds`: the same for seed axes; `baseline`: the id of the arm
    that the others are compared with; `zipped`: groups of axes that change together; `study`: the preset's name, or empty;
    `tune`: the axes whose level a report chooses for each arm, by the validation split; `metric`: the tag by which the first plan
    compares its arms, empty in files of earlier versions; `smallest_effect`: that of interest to it, None for the default;
    `first_batches`: hash of a first batch -> id of its data, as the sweep found out for runs that do not record theirs.
    """

    command: tuple[str, ...]
    design: Design
    axes: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[str, ...]]
    baseline: str
    arms: tuple[PlannedArm, ...]
    runs: tuple[PlannedRun, ...]
    dropped: tuple[Dropped, ...] = ()
    zipped: tuple[tuple[str, ...], ...] = ()
    study: str = ""
    notes: tuple[str, ...] = field(default=())
    tune: tuple[str, ...] = ()
    metric: str = ""
    smallest_effect: float | None = None
    first_batches: Mapping[str, str] = field(default_factory=dict)
    identity_version: int = VERSION
    """The version of the identity that produced the ids."""


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of the sweep in `folder`; None if there is none. UsageError for a damaged file or another format."""
    path = folder / MANIFEST_FILE
    try:
        content = read_stored(folder, MANIFEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: this is not a sweep manifest ({error}).") from None
    version = content.get("identity_version") or 1
    if content["format"] != FORMAT or not 1 <= version <= VERSION or content["design"] not in get_args(Design):
        raise UsageError(f"{path}: another version of train wrote this file. This version reads format {FORMAT}.")
    return Manifest(
        command=tuple(content["command"]),
        design=content["design"],
        axes={axis: tuple(levels) for axis, levels in content["axes"].items()},
        seeds={axis: tuple(levels) for axis, levels in content["seeds"].items()},
        baseline=content["baseline"],
        arms=tuple(_arm(arm) for arm in content["arms"]),
        runs=tuple(PlannedRun(r["identity"], r["arm"], r["folder"], tuple(r["overrides"])) for r in content["runs"]),
        dropped=tuple(Dropped(tuple(d["overrides"]), d["reason"]) for d in content["dropped"]),
        zipped=tuple(tuple(axes) for axes in content["zipped"]),
        study=content["study"],
        notes=tuple(content["notes"]),
        tune=tuple(content.get("tune") or ()),  # older sweeps have none
        metric=content.get("metric") or "",
        smallest_effect=content.get("smallest_effect"),
        first_batches=content.get("first_batches") or {},
        identity_version=version,
    )


def _arm(content: Mapping[str, Any]) -> PlannedArm:
    overrides = tuple(content["overrides"])
    return PlannedArm(content["id"], content["levels"], overrides, content.get("tuned") or "", content.get("data") or "")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `sweep.json` atomically: a reader sees either the old plan or the new one."""
    write_atomic(folder / MANIFEST_FILE, (json.dumps({"format": FORMAT} | asdict(manifest), indent=2) + "\n").encode())


def merge_manifests(old: Manifest | None, new: Manifest) -> Manifest:
    """Return everything planned in the folder so far and not dropped since. Where the two conflict, `new` takes precedence.

    A command that repeats a part of `old` leaves its command, design, baseline and tuned keys unchanged. Where the same overrides
    now give another experiment, as the data or a YAML have changed, the run takes the place of the old one.
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
    replaced = {experiment_overrides(run.overrides) for run in new.runs}
    kept = [run for run in old.runs if run.identity not in identities and experiment_overrides(run.overrides) not in replaced]
    emptied = {run.arm for run in old.runs} - {run.arm for run in kept}
    return replace(
        new,
        axes=_union(old.axes, new.axes),
        seeds=_union(old.seeds, new.seeds),
        arms=new.arms + tuple(arm for arm in old.arms if arm.id not in arms | emptied),
        runs=(*new.runs, *kept),
        dropped=new.dropped + tuple(item for item in old.dropped if item.overrides not in dropped),
        zipped=tuple(dict.fromkeys((*old.zipped, *new.zipped))),
        study=new.study or old.study,
        notes=tuple(dict.fromkeys((*old.notes, *new.notes))),
        metric=old.metric,  # what was chosen before the first run stays the choice that was made in advance
        smallest_effect=old.smallest_effect,
        first_batches={**old.first_batches, **new.first_batches},
    )


def upgraded_manifest(manifest: Manifest, runs: Iterable[Run], planned: Manifest | None = None) -> Manifest:
    """Return the manifest with ids of the present version.

    `runs`: read from the folder of its sweep; their configurations give the new ids. `planned`: the manifest that a command
    plans in the same folder now; it gives the new ids of runs without a folder. All others keep their old id.
    """
    if manifest.identity_version == VERSION:
        return manifest
    new_ids = _ids_by_overrides(manifest, planned) if planned else {}
    tuned = [dotted_key(key) for key in manifest.tune]
    for run in runs:
        present = (run_id(id, run.config, run.data) for id in _ids(run, tuned, VERSION))
        new_ids |= zip(_ids(run, tuned, manifest.identity_version), present, strict=True)

    def new(old_id: str) -> str:
        return new_ids.get(old_id, old_id)

    return replace(
        manifest,
        baseline=new(manifest.baseline),
        arms=tuple(replace(arm, id=new(arm.id), tuned=new(arm.tuned)) for arm in manifest.arms),
        runs=tuple(replace(run, identity=new(run.identity), arm=new(run.arm)) for run in manifest.runs),
        identity_version=VERSION,
    )


def _ids(run: Run, tuned: Sequence[str], version: int) -> tuple[str, str, str]:
    """Return the ids of the run, of its arm, and of its arm without the tuned keys."""
    config = run.config
    return identity(config, version), arm_id(config, version=version), arm_id(config, tuned, version)


def _ids_by_overrides(old: Manifest, new: Manifest) -> dict[str, str]:
    """Return old id -> new id for runs and arms with the same overrides in both manifests, execution keys aside."""
    runs = {experiment_overrides(run.overrides): run for run in new.runs}
    arms = {experiment_overrides(arm.overrides): arm for arm in new.arms}
    new_ids: dict[str, str] = {}
    for run in old.runs:
        if same := runs.get(experiment_overrides(run.overrides)):
            new_ids |= {run.identity: same.identity, run.arm: same.arm}
    for arm in old.arms:
        if same := arms.get(experiment_overrides(arm.overrides)):
            new_ids |= {arm.id: same.id, arm.tuned: same.tuned}
    return new_ids


def experiment_overrides(overrides: Iterable[str]) -> frozenset[str]:
    """Return the overrides that define an experiment: without execution keys, in any order."""
    return frozenset(override for override in overrides if not is_execution_key(dotted_key(override)))


def _union(old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {axis: tuple(dict.fromkeys((*old.get(axis, ()), *new.get(axis, ())))) for axis in (*old, *new)}
