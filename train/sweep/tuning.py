"""Tuned axes: which keys can be tuned, and which arms of a plan differ in them alone. The report chooses the level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from train.errors import UsageError, did_you_mean
from train.store.choices import Tuning
from train.store.identity import SEEDS, arm_id, run_id
from train.store.manifest import Manifest
from train.store.overrides import dotted_key
from train.sweep.axes import SweepRequest
from train.sweep.design import ComposedArm, Levels, all_combinations, factors
from train.sweep.ranges import Ladder, extended
from train.sweep.settings import SweepSettings
from train.sweep.trials import refuse_shared_seeds, tuning_of


def validate(request: SweepRequest, tuned: Sequence[str], baseline: Levels) -> None:
    """Check that this command can tune the `tuned` keys. UsageError names the key and the remedy."""
    axes = {axis.name: axis for axis in request.axes}
    for key in tuned:
        option = f"sweep.tune={key}"
        if key.partition(".")[0] in SEEDS:
            raise UsageError(f"{option}: seeds are averaged over; choosing the best of them proves nothing.")
        if key.partition(".")[0] == "data":
            raise UsageError(f"{option}: levels are chosen by accuracy on the same validation split, which depends on the data.")
        if key not in axes:
            constant = request.constants.get(key)
            problem = f"has one value only ({constant})" if constant else "is not an axis of this command"
            hint = did_you_mean(key, axes) if axes and not constant else ""
            raise UsageError(f"{option}: {key} {problem}. Give it the levels to try, as in {key}=A,B,C. {hint}".strip())
        if len(set(axes[key].levels)) < 2:
            raise UsageError(f"{option}: {key} has one level only ({axes[key].levels[0]}). Give it several, or omit sweep.tune.")
        if key in baseline:
            baseline_option = f"sweep.baseline={{{key}: {baseline[key]}}}"
            raise UsageError(f"{baseline_option}: {key} is tuned for every arm (sweep.tune), the baseline too. Leave it out.")


def validate_split(arms: Iterable[ComposedArm], tuned: Sequence[str]) -> None:
    """Check that every arm of a tuned sweep has a validation split to choose levels by. UsageError when one has none."""
    for arm in arms:
        data = arm.config.get("data")
        if tuned and isinstance(data, Mapping) and data.get("val_fraction") == 0:
            raise UsageError(
                f"sweep.tune={tuned[0]}: levels are chosen by validation accuracy, and data.val_fraction=0 leaves no "
                "validation split. Reserve a part of the training images, as in data.val_fraction=0.1."
            )


@dataclass(frozen=True)
class TriedLevels:
    """The levels of the tuned keys.

    `named`: those of the command, the empty one without tuned keys; `further`: those that are tried where the best lies at an
    edge, and those that an earlier command of the sweep chose; `ladders`: of the tuned numbers; `tuning`: how they are tried,
    None where the runs that are compared do that.
    """

    named: Sequence[Levels]
    further: Sequence[Levels] = ()
    ladders: tuple[Ladder, ...] = ()
    tuning: Tuning | None = None


def tried_levels(
    request: SweepRequest, settings: SweepSettings, zipped: Sequence[Sequence[str]], stored: Manifest | None
) -> TriedLevels:
    """Return the levels of the tuned keys that a sweep may try. `stored`: its manifest, if the command continues it.

    UsageError as of `tuning_of`, and for a seed of the comparison that tries levels.
    """
    axes = {axis.name: axis.levels for axis in request.axes if axis.name in settings.tuned}
    named_factors = factors(axes, zipped)
    named = list({frozenset(level.items()): level for level in all_combinations(named_factors)}.values())
    tuning = tuning_of(settings, stored)
    if tuning is None:
        return TriedLevels(named)
    refuse_shared_seeds(request, tuning)
    ladders, longer = extended(named_factors, tuning.extend)
    chosen = [choice.setting for choice in stored.choices.values() if choice.setting.keys() == axes.keys()] if stored else []
    further = [level for level in (*all_combinations(longer), *chosen) if level not in named]
    return TriedLevels(named, further, ladders, tuning)


def validate_trials(arms: Sequence[ComposedArm], tuning: Tuning | None) -> None:
    """Raise UsageError where the share of the epochs, rounded up, lets one run try the levels of two arms: it can serve one."""
    seen: dict[str, ComposedArm] = {}
    for arm in arms:
        other = seen.setdefault(arm.trial.id, arm) if arm.trial else arm
        if tuning is not None and other.tuned != arm.tuned:
            pairs = ((axis, level, arm.levels.get(axis)) for axis, level in other.levels.items())
            same = " and ".join(f"{axis}={first} and {second}" for axis, first, second in pairs if first != second)
            raise UsageError(
                f"sweep.tune_epochs={tuning.epochs:g}: this share, rounded up, makes {same} one run, which would try levels for "
                "both. Choose values whose shares differ, as 2,4,8, or sweep.tune_epochs=null."
            )


def group_tuned(levels: Sequence[Sequence[ComposedArm]], tuned: Sequence[str]) -> list[list[ComposedArm]]:
    """Set `tuned` of arms that differ in tuned keys alone to a common id.

    `levels`: the arms that one combination of ingredients gives at each level of the tuned keys. Values computed from a tuned
    one do not separate them.
    """
    if not tuned or not levels:
        return [list(arms) for arms in levels]
    ids = [_id_without_tuned(arm.config, tuned) for arm in levels[0]]
    return [
        [
            replace(arm, tuned=ids[index] if len(arms) == len(ids) else _id_without_tuned(arm.config, tuned))
            for index, arm in enumerate(arms)
        ]
        for arms in levels
    ]


def _id_without_tuned(config: Mapping[str, Any], tuned: Sequence[str]) -> str:
    """Return an id that, like that of an arm before its data are known, has the place of the data instead of their content."""
    return run_id(arm_id(config, [dotted_key(key) for key in tuned]), config, "")
