"""The arms of a sweep, and the combinations of levels that a design tries. Pure functions from names and levels to levels.

A *factor* is an axis, or several axes that move together (`sweep.zip`). An arm is one level for each axis it sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from train.errors import UsageError, did_you_mean
from train.store.inputs import Inputs
from train.store.manifest import Design, PlannedArm, PlannedRun
from train.sweep.axes import Axis

Levels: TypeAlias = Mapping[str, str]
"""Axis -> level."""


@dataclass(frozen=True)
class Factor:
    """An axis, or several that move together. `levels[i]`: the level of each of its axes at the factor's level i."""

    axes: tuple[str, ...]
    levels: tuple[Levels, ...]


@dataclass(frozen=True, kw_only=True)
class ComposedArm(PlannedArm):
    """A planned arm with its configuration and its runs.

    `config`: the experiment with the first seeds; `choices`: config group -> chosen option; `runs`: one per seed; `inputs`: what
    goes into the runs besides their configuration, empty until that is known. `trial`: with tuned keys, the same arm with the
    seeds and the epochs of the runs that try its level.
    """

    config: Mapping[str, Any]
    choices: Mapping[str, str]
    runs: tuple[PlannedRun, ...]
    inputs: Inputs = field(default_factory=Inputs)
    trial: ComposedArm | None = None


def factors(axes: Mapping[str, Sequence[str]], zipped: Iterable[Sequence[str]]) -> tuple[Factor, ...]:
    """Group the axes into factors, in their order. UsageError when zipped axes are unknown or differ in length."""
    partners = _partners(axes, zipped)
    by_axes: dict[tuple[str, ...], Factor] = {}
    for name in axes:
        group = partners.get(name, (name,))
        lengths = {axis: len(axes[axis]) for axis in group}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            raise UsageError(f"sweep.zip=[[{','.join(group)}]]: zipped axes need equally many levels; {counts}.")
        rows = zip(*(axes[axis] for axis in group), strict=True)
        by_axes.setdefault(group, Factor(group, tuple(dict(zip(group, row, strict=True)) for row in rows)))
    return tuple(by_axes.values())


def _partners(axes: Mapping[str, Sequence[str]], zipped: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    partners: dict[str, tuple[str, ...]] = {}
    for group in zipped:
        option = f"sweep.zip=[[{','.join(group)}]]"
        for axis in group:
            if axis not in axes:
                remedy = f"Give it levels, as in {axis}=1,2. {did_you_mean(axis, axes)}".strip()
                raise UsageError(f"{option}: {axis} is not an axis of this sweep. {remedy}")
            if axis in partners or group.count(axis) > 1:
                raise UsageError(f"{option}: {axis} is named twice.")
        partners |= {axis: tuple(group) for axis in group}
    return partners


def partition_zips(
    zipped: Iterable[Sequence[str]], seeds: Collection[str], tuned: Collection[str]
) -> tuple[list[Sequence[str]], list[Sequence[str]], list[Sequence[str]]]:
    """Split the zipped groups into those of seeds, of tuned axes and of ingredients. UsageError for a group that mixes these."""
    partition: tuple[list[Sequence[str]], ...] = ([], [], [])
    kinds = (("seeds", set(seeds)), ("tuned axes (sweep.tune)", set(tuned)))
    for group in zipped:
        index = 2
        for i, (kind, names) in enumerate(kinds):
            inside = names & set(group)
            if 0 < len(inside) < len(set(group)):
                option = f"sweep.zip=[[{','.join(group)}]]"
                raise UsageError(f"{option}: {kind} are crossed with every arm and cannot be zipped with an axis.")
            index = i if inside else index
        partition[index].append(group)
    return partition[0], partition[1], partition[2]


def design_arms(design: Design, factors: Sequence[Factor], chosen: Levels) -> list[Levels]:
    """Return the levels of the baseline, then of the other arms. `chosen`: levels of the baseline that the user names.

    grid: every combination; the baseline has the first level of every factor. leave_one_out: the combination of first levels,
    then the same with one factor at each of its other levels. one_at_a_time: the unchanged configuration, then the same with one
    factor at each of its levels. UsageError when `chosen` names a key that is not an axis.
    """
    baseline = _baseline(design, factors, chosen)
    if design == "grid":
        arms = [_merged(row) for row in itertools.product(*(factor.levels for factor in factors))]
    else:
        arms = [_merged((baseline, level)) for factor in factors for level in factor.levels]
    return [baseline, *(arm for arm in arms if arm != baseline)]


def all_combinations(factors: Sequence[Factor]) -> list[Levels]:
    """Return every combination of the factors' levels; without factors, the empty one."""
    return [_merged(row) for row in itertools.product(*(factor.levels for factor in factors))]


def crossed(axes: Iterable[Axis], zipped: Iterable[Sequence[str]]) -> list[Levels]:
    """Return every combination of the levels of the axes; those of a zipped group move together."""
    return all_combinations(factors({axis.name: axis.levels for axis in axes}, zipped))


def _baseline(design: Design, factors: Sequence[Factor], chosen: Levels) -> Levels:
    axes = [axis for factor in factors for axis in factor.axes]
    for axis, level in chosen.items():
        if axis not in axes:
            remedy = f"To set it for every arm, write {axis}={level}. {did_you_mean(axis, axes)}".strip()
            raise UsageError(f"sweep.baseline={{{axis}: {level}}}: {axis} is not an axis of this sweep. {remedy}")
    first = {} if design == "one_at_a_time" else _merged(factor.levels[0] for factor in factors)
    zipped = [_complete_level(factor, chosen) for factor in factors if len(factor.axes) > 1]
    return _merged((first, *zipped, chosen))


def _complete_level(factor: Factor, chosen: Levels) -> Levels:
    """Complete the chosen level of some zipped axes with the levels of their partners; the first match counts."""
    named = {axis: chosen[axis] for axis in factor.axes if axis in chosen}
    matching = [level for level in factor.levels if named.items() <= level.items()]
    return matching[0] if named and matching else {}


def _merged(parts: Iterable[Levels]) -> Levels:
    return {axis: level for part in parts for axis, level in part.items()}
