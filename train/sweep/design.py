"""Which combinations of levels a design tries. Pure: names and levels in, levels out.

A *factor* is an axis, or several that move together (`sweep.zip`). An arm is one level for each axis it sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from train.errors import UsageError, did_you_mean
from train.store.manifest import Design

Levels: TypeAlias = Mapping[str, str]
"""Axis -> level."""


@dataclass(frozen=True)
class Factor:
    """`levels[i]`: the level of each of its axes at the factor's level i."""

    axes: tuple[str, ...]
    levels: tuple[Levels, ...]


def factors(axes: Mapping[str, Sequence[str]], zipped: Iterable[Sequence[str]]) -> tuple[Factor, ...]:
    """The axes as factors, in their order. UsageError for a pairing of unknown axes, or of axes of different lengths."""
    partners = _partners(axes, zipped)
    found: dict[tuple[str, ...], Factor] = {}
    for name in axes:
        group = partners.get(name, (name,))
        lengths = {axis: len(axes[axis]) for axis in group}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            raise UsageError(f"sweep.zip=[[{','.join(group)}]]: axes that move together need equally many levels; {counts}.")
        rows = zip(*(axes[axis] for axis in group), strict=True)
        found.setdefault(group, Factor(group, tuple(dict(zip(group, row, strict=True)) for row in rows)))
    return tuple(found.values())


def _partners(axes: Mapping[str, Sequence[str]], zipped: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    partners: dict[str, tuple[str, ...]] = {}
    for group in zipped:
        shown = f"sweep.zip=[[{','.join(group)}]]"
        for axis in group:
            if axis not in axes:
                remedy = f"Give it levels, as in {axis}=1,2. {did_you_mean(axis, axes)}".strip()
                raise UsageError(f"{shown}: {axis} is not an axis of this sweep. {remedy}")
            if axis in partners or group.count(axis) > 1:
                raise UsageError(f"{shown}: {axis} is named twice.")
        partners |= {axis: tuple(group) for axis in group}
    return partners


def partition_zips(
    zipped: Iterable[Sequence[str]], seeds: Collection[str], tuned: Collection[str]
) -> tuple[list[Sequence[str]], list[Sequence[str]], list[Sequence[str]]]:
    """The pairings of seeds, those of tuned axes and those of the axes that the design is about. UsageError for one across."""
    found: tuple[list[Sequence[str]], ...] = ([], [], [])
    kinds = (("seeds", set(seeds)), ("tuned axes (sweep.tune)", set(tuned)))
    for group in zipped:
        place = 2
        for i, (what, names) in enumerate(kinds):
            inside = names & set(group)
            if 0 < len(inside) < len(set(group)):
                shown = f"sweep.zip=[[{','.join(group)}]]"
                raise UsageError(f"{shown}: {what} are crossed with every arm and cannot move with an axis.")
            place = i if inside else place
        found[place].append(group)
    return found[0], found[1], found[2]


def design_arms(design: Design, of: Sequence[Factor], chosen: Levels) -> list[Levels]:
    """The baseline, then the other arms. `chosen`: levels of the baseline that the user names.

    grid: every combination; the baseline is the one of first levels. leave_one_out: the combination of first levels, and it
    with one factor at each of its other levels. one_at_a_time: the configuration as it is, and it with one factor at each of
    its levels. UsageError when `chosen` names something that is no axis.
    """
    baseline = _baseline(design, of, chosen)
    if design == "grid":
        every = [_merged(row) for row in itertools.product(*(factor.levels for factor in of))]
    else:
        every = [_merged((baseline, level)) for factor in of for level in factor.levels]
    return [baseline, *(arm for arm in every if arm != baseline)]


def all_combinations(of: Sequence[Factor]) -> list[Levels]:
    """Every combination; of no factors, the empty one."""
    return [_merged(row) for row in itertools.product(*(factor.levels for factor in of))]


def _baseline(design: Design, of: Sequence[Factor], chosen: Levels) -> Levels:
    known = [axis for factor in of for axis in factor.axes]
    for axis, level in chosen.items():
        if axis not in known:
            remedy = f"To set it for every arm, write {axis}={level}. {did_you_mean(axis, known)}".strip()
            raise UsageError(f"sweep.baseline={{{axis}: {level}}}: {axis} is not an axis of this sweep. {remedy}")
    first = {} if design == "one_at_a_time" else _merged(factor.levels[0] for factor in of)
    together = [_level_with(factor, chosen) for factor in of if len(factor.axes) > 1]
    return _merged((first, *together, chosen))


def _level_with(factor: Factor, chosen: Levels) -> Levels:
    """Of axes that move together, naming one names the others where that is not ambiguous."""
    named = {axis: chosen[axis] for axis in factor.axes if axis in chosen}
    fitting = [level for level in factor.levels if named.items() <= level.items()]
    return fitting[0] if named and fitting else {}


def _merged(parts: Iterable[Levels]) -> Levels:
    return {axis: level for part in parts for axis, level in part.items()}
