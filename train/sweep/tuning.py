"""Axes that are tuned: which may be, and which arms of a plan differ in them alone. The choice itself is the report's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from train.errors import UsageError, did_you_mean
from train.store.identity import SEEDS, arm_id
from train.store.overrides import dotted_key
from train.sweep.arm import ComposedArm
from train.sweep.axes import SweepRequest
from train.sweep.design import Levels


def validate(request: SweepRequest, tuned: Sequence[str], baseline: Levels) -> None:
    """UsageError for a key that cannot be tuned by this command, with the remedy."""
    axes = {axis.name: axis for axis in request.axes}
    for key in tuned:
        shown = f"sweep.tune={key}"
        if key.partition(".")[0] in SEEDS:
            raise UsageError(f"{shown}: seeds are what a level is averaged over; choosing the best of them proves nothing.")
        if key.partition(".")[0] == "data":
            raise UsageError(f"{shown}: levels are chosen by their accuracy on the same validation split, which data decide.")
        if key not in axes:
            constant = request.constants.get(key)
            what = f"has one value only ({constant})" if constant else "is not an axis of this command"
            near = did_you_mean(key, axes) if axes and not constant else ""
            raise UsageError(f"{shown}: {key} {what}. Give it the levels to try, as in {key}=A,B,C. {near}".strip())
        if len(set(axes[key].levels)) < 2:
            raise UsageError(f"{shown}: {key} has the one level {axes[key].levels[0]}. Give it several, or leave sweep.tune out.")
        if key in baseline:
            asked = f"sweep.baseline={{{key}: {baseline[key]}}}"
            raise UsageError(f"{asked}: {key} is tuned for every arm (sweep.tune), the baseline too. Leave it out.")


def validate_split(arms: Iterable[ComposedArm], tuned: Sequence[str]) -> None:
    """UsageError where there will be nothing to choose by."""
    for arm in arms:
        data = arm.config.get("data")
        if tuned and isinstance(data, Mapping) and data.get("val_fraction") == 0:
            raise UsageError(
                f"sweep.tune={tuned[0]}: levels are chosen by their validation accuracy, and data.val_fraction=0 leaves no "
                "validation split. Set aside a part of the training images, as in data.val_fraction=0.1."
            )


def group_tuned(levels: Sequence[Sequence[ComposedArm]], tuned: Sequence[str]) -> list[list[ComposedArm]]:
    """`levels`: the arms that one combination of ingredients gave at each level of the tuned keys. The same, marked as belonging
    together: a value that is computed from a tuned one does not set them apart."""
    if not tuned or not levels:
        return [list(arms) for arms in levels]
    marks = [_mark(arm.config, tuned) for arm in levels[0]]
    return [
        [
            replace(arm, tuned=marks[place] if len(arms) == len(marks) else _mark(arm.config, tuned))
            for place, arm in enumerate(arms)
        ]
        for arms in levels
    ]


def _mark(config: Mapping[str, Any], tuned: Sequence[str]) -> str:
    return arm_id(config, [dotted_key(key) for key in tuned])
