"""The ids of the arms of a plan: which arms are the same experiment, before and after it is known what their data are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from train.store.identity import arm_id, run_id
from train.store.inputs import Inputs
from train.store.manifest import Design, Dropped
from train.store.overrides import dotted_key
from train.store.planned_names import names_of
from train.sweep.design import ComposedArm


def without_duplicates(
    arms: Sequence[ComposedArm], design: Design, factors: Sequence[str]
) -> tuple[list[ComposedArm], list[Dropped]]:
    """Return the arms without those whose id an earlier one has, and these. `factors`: the axes without the tuned ones."""
    unique: dict[str, ComposedArm] = {}
    for arm in arms:
        unique.setdefault(arm.id, arm)
    kept = list(unique.values())
    names = names_of(kept, kept[0].id if kept else "", design, factors)
    duplicates = []
    for arm in arms:
        if arm is not unique[arm.id]:
            original = "the baseline" if arm.id == kept[0].id else names[arm.id]
            same = "the same configuration and the same data" if arm.data else "the same configuration"
            duplicates.append(Dropped(arm.overrides, f"{same} as {original}"))
    return kept, duplicates


def with_inputs(arms: Sequence[ComposedArm], inputs: Mapping[str, Inputs], tune: Sequence[str]) -> list[ComposedArm]:
    """Return the arms with what goes into their runs, and with the final ids of arms and runs.

    `inputs`: by the id of an arm until now; an arm without has unknown data. `tune`: the tuned keys.
    """
    keys = [dotted_key(key) for key in tune]
    data = {arm.id: inputs[arm.id].data_id for arm in arms if arm.id in inputs}
    tuned = {arm.tuned: run_id(arm_id(arm.config, keys), arm.config, data.get(arm.id, "")) for arm in reversed(arms)}
    return [_with_inputs(arm, inputs.get(arm.id, Inputs()), tuned[arm.tuned] if arm.tuned else "") for arm in arms]


def _with_inputs(arm: ComposedArm, inputs: Inputs, tuned: str) -> ComposedArm:
    data = inputs.data_id
    id = run_id(arm_id(arm.config), arm.config, data)
    runs = tuple(replace(run, identity=run_id(run.identity, arm.config, data), arm=id) for run in arm.runs)
    trial = arm.trial and _as_trial(_with_inputs(arm.trial, inputs, tuned), of=id)
    return replace(arm, id=id, tuned=tuned, data=data, runs=runs, inputs=inputs, trial=trial)


def with_trial(arm: ComposedArm, trial: ComposedArm) -> ComposedArm:
    """Return the arm with the runs that try its level."""
    return replace(arm, trial=_as_trial(trial, of=arm.id))


def _as_trial(trial: ComposedArm, of: str) -> ComposedArm:
    """Return the arm whose runs try the level of the arm with the id `of`."""
    return replace(trial, runs=tuple(replace(run, tries=of) for run in trial.runs))
