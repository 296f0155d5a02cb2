"""The manifest of a sweep (`sweep.json` in its folder): its arms and planned runs, which shows the missing ones.

What is there already is changed by `train.store.manifest_update`, so that no change is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from train.errors import UsageError
from train.store.choices import Choice, Tuning, choices_of, tuning_of
from train.store.decisions import Decision, PlannedLooks, decisions_of, planned_looks_of
from train.store.files import MANIFEST_FILE, write_atomic
from train.store.identity import VERSION, arm_id, identity, is_execution_key, run_id
from train.store.overrides import dotted_key
from train.store.plans import Look, Plan, look_of, plan_of
from train.store.run import Run
from train.store.stored import read_stored

FORMAT, WITH_TRIALS = 1, 2
"""The second is that of a manifest with runs that only try levels. Versions before would compare them, too."""
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

    `folder`: relative to the folder of the sweep; `overrides`: `train OVERRIDES` repeats it as a single run; `plan`: the number
    of the first plan that has it, counted from 0; `tries`: the id of the arm whose level of tuned keys it tries, empty for a run
    that is compared.
    """

    identity: str
    arm: str
    folder: str
    overrides: tuple[str, ...]
    plan: int = 0
    tries: str = ""


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
    `first_batches`: hash of a first batch -> id of its data, as the sweep found out for runs that do not record theirs;
    `planned_looks`: when arms are compared while the sweep grows, None if it does not; `decisions`: arm -> what was decided, by
    the names in `planned_looks`; `plans`: what was planned, one command after the other; `looks`: the pages with verdicts that
    were made of it; `tuning`: how levels are tried by runs of their own, None where a report chooses among the runs that it
    compares; `choices`: `tuned` of an arm -> its choice; `analysis`: what its page answers (`report.analysis`).
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
    planned_looks: PlannedLooks | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    plans: tuple[Plan, ...] = ()
    looks: tuple[Look, ...] = ()
    tuning: Tuning | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict)
    analysis: str = "arms"
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
    is_known = content["format"] in (FORMAT, WITH_TRIALS) and 1 <= version <= VERSION
    if not is_known or content["design"] not in get_args(Design):
        raise UsageError(f"{path}: another version of train wrote this file. This version reads formats up to {WITH_TRIALS}.")
    looks = planned_looks_of(content.get("planned_looks"))
    return Manifest(
        command=tuple(content["command"]),
        design=content["design"],
        axes={axis: tuple(levels) for axis, levels in content["axes"].items()},
        seeds={axis: tuple(levels) for axis, levels in content["seeds"].items()},
        baseline=content["baseline"],
        arms=tuple(_arm(arm) for arm in content["arms"]),
        runs=tuple(map(_run, content["runs"])),
        dropped=tuple(Dropped(tuple(d["overrides"]), d["reason"]) for d in content["dropped"]),
        zipped=tuple(tuple(axes) for axes in content["zipped"]),
        study=content["study"],
        notes=tuple(content["notes"]),
        tune=tuple(content.get("tune") or ()),  # older sweeps have none
        metric=content.get("metric") or "",
        smallest_effect=content.get("smallest_effect"),
        first_batches=content.get("first_batches") or {},
        planned_looks=looks,
        decisions=decisions_of(content.get("decisions"), looks),
        plans=tuple(map(plan_of, content.get("plans") or ())),
        looks=tuple(map(look_of, content.get("looks") or ())),
        tuning=tuning_of(content.get("tuning")),
        choices=choices_of(content.get("choices")),
        analysis=content.get("analysis") or "arms",  # older sweeps compare arms
        identity_version=version,
    )


def _run(content: Mapping[str, Any]) -> PlannedRun:
    overrides = tuple(content["overrides"])
    plan, tries = content.get("plan") or 0, content.get("tries") or ""
    return PlannedRun(content["identity"], content["arm"], content["folder"], overrides, plan, tries)


def _arm(content: Mapping[str, Any]) -> PlannedArm:
    overrides = tuple(content["overrides"])
    return PlannedArm(content["id"], content["levels"], overrides, content.get("tuned") or "", content.get("data") or "")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `sweep.json` atomically: a reader sees either the old plan or the new one."""
    format = WITH_TRIALS if manifest.tuning else FORMAT
    write_atomic(folder / MANIFEST_FILE, (json.dumps({"format": format} | asdict(manifest), indent=2) + "\n").encode())


def merge_manifests(old: Manifest | None, new: Manifest) -> Manifest:
    """Return everything planned in the folder so far and not dropped since. Where the two conflict, `new` takes precedence.

    A command that repeats a part of `old` leaves its command, design, baseline and tuned keys unchanged. Where the same overrides
    now give another experiment, as the data or a YAML have changed, the run takes the place of the old one. Choices stay.
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
    plans, new_runs = _merged_plans(old, new)
    return replace(
        new,
        axes=_union(old.axes, new.axes),
        seeds=_union(old.seeds, new.seeds),
        arms=new.arms + tuple(arm for arm in old.arms if arm.id not in arms | emptied),
        runs=(*new_runs, *kept),
        plans=plans,
        looks=old.looks,
        dropped=new.dropped + tuple(item for item in old.dropped if item.overrides not in dropped),
        zipped=tuple(dict.fromkeys((*old.zipped, *new.zipped))),
        study=new.study or old.study,
        notes=tuple(dict.fromkeys((*old.notes, *new.notes))),
        metric=old.metric,  # what was chosen before the first run stays the choice that was made in advance
        smallest_effect=old.smallest_effect,
        first_batches={**old.first_batches, **new.first_batches},
        planned_looks=old.planned_looks if old.decisions else new.planned_looks or old.planned_looks,
        decisions=old.decisions,
        tune=old.tune if old.tuning else new.tune,
        tuning=old.tuning or new.tuning,
        choices={**new.choices, **old.choices},
    )


def _merged_plans(old: Manifest, new: Manifest) -> tuple[tuple[Plan, ...], list[PlannedRun]]:
    """Return the plans so far, and the runs of `new` with the number of the plan that they were in first.

    A run that takes the place of another has its number. A plan that adds no run is none, nor is the next stage of the last one.
    """
    number = {run.identity: run.plan for run in old.runs}
    by_overrides = {experiment_overrides(run.overrides): run.plan for run in old.runs}
    plans = old.plans or (as_planned(old),)
    is_next_stage = bool(new.plans) and new.plans[0].repeats(plans[-1])
    this = len(plans) - is_next_stage
    runs = [
        replace(run, plan=number.get(run.identity, by_overrides.get(experiment_overrides(run.overrides), this)))
        for run in new.runs
    ]
    if is_next_stage:
        return (*plans[:-1], replace(plans[-1], runs=max(plans[-1].runs, len(runs)))), runs
    return (*plans, *new.plans) if any(run.plan == this for run in runs) else plans, runs


def as_planned(manifest: Manifest, when: str = "") -> Plan:
    """Return a manifest's own plan, as that of one command."""
    m = manifest
    arms = {arm.tuned or arm.id for arm in m.arms}
    return Plan(when, m.command, m.design, m.baseline, m.tune, m.axes, m.seeds, len(arms), len(m.runs))


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
        return new_ids.get(old_id, old_id) if old_id else ""

    looks = manifest.planned_looks
    return replace(
        manifest,
        baseline=new(manifest.baseline),
        planned_looks=looks and replace(looks, arms=tuple(map(new, looks.arms))),
        decisions={new(arm): decision for arm, decision in manifest.decisions.items()},
        plans=tuple(replace(plan, baseline=new(plan.baseline)) for plan in manifest.plans),
        looks=tuple(replace(look, runs={new(arm): count for arm, count in look.runs.items()}) for look in manifest.looks),
        arms=tuple(replace(arm, id=new(arm.id), tuned=new(arm.tuned)) for arm in manifest.arms),
        runs=tuple(replace(run, identity=new(run.identity), arm=new(run.arm), tries=new(run.tries)) for run in manifest.runs),
        choices={new(tuned): replace(choice, arm=new(choice.arm)) for tuned, choice in manifest.choices.items()},
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
