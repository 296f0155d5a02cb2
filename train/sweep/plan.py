"""The plan of a sweep: every arm of the request composed as Hydra would, with the identities of its runs, without duplicates."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from train.errors import UsageError
from train.naming import levels_text
from train.store.choices import Tuning
from train.store.inputs import Inputs
from train.store.manifest import Design, Dropped, Manifest, PlannedRun
from train.store.planned_names import names_of
from train.sweep import design as designing
from train.sweep import tuning
from train.sweep.arms import with_inputs, without_duplicates
from train.sweep.axes import SweepRequest, level_text
from train.sweep.composer import Composer
from train.sweep.design import ComposedArm, Levels
from train.sweep.failures import Failure, impossible_baseline, unusable_combination
from train.sweep.ranges import Ladder
from train.sweep.roles import by_role
from train.sweep.settings import SweepSettings


@dataclass(frozen=True)
class SweepPlan:
    """The arms and runs of a sweep; the first arm is the baseline.

    Until `with_inputs` tells what lies there, the id of an arm has the place of its data instead of their content, and that of a
    run neither. `first_batches`: see `Manifest`.

    If keys are tuned (`tune`), every combination of their levels is an arm here; `compared` groups them into the arms that the
    report compares. `tuning`: how their levels are tried, None where the runs that are compared do that; `reserve`: the arms at
    levels beyond the named ones; `ladders`: the levels of the tuned numbers; `lost_baseline`: whether the baseline is no longer
    among the arms, as every run of it was lost at every level.
    """

    request: SweepRequest
    design: Design
    zipped: tuple[tuple[str, ...], ...]
    arms: tuple[ComposedArm, ...]
    dropped: tuple[Dropped, ...]
    tune: tuple[str, ...] = ()
    first_batches: Mapping[str, str] = field(default_factory=dict)
    tuning: Tuning | None = None
    reserve: tuple[ComposedArm, ...] = ()
    ladders: tuple[Ladder, ...] = ()
    lost_baseline: bool = False

    @property
    def baseline(self) -> ComposedArm:
        return self.arms[0]

    @property
    def compared(self) -> tuple[tuple[ComposedArm, ...], ...]:
        """The arms, grouped so that those of a group differ in tuned keys alone."""
        groups: dict[str, list[ComposedArm]] = {}
        for arm in self.arms:
            groups.setdefault(arm.tuned or arm.id, []).append(arm)
        return tuple(map(tuple, groups.values()))

    @property
    def factors(self) -> list[str]:
        """The axes but the tuned ones."""
        return [axis.name for axis in self.request.axes if axis.name not in self.tune]

    @cached_property
    def names(self) -> dict[str, str]:
        """Arm's id -> its name."""
        return names_of(self.arms, self.baseline.id, self.design, self.factors)

    def ingredients(self, arm: ComposedArm) -> Levels:
        """Return the arm's levels of all axes but the tuned ones."""
        return {axis: level for axis, level in arm.levels.items() if axis not in self.tune}

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """All runs, seed by seed, so that a sweep cut short has runs of every arm."""
        return seed_by_seed(self.arms)

    @property
    def configurations(self) -> tuple[ComposedArm, ...]:
        """All arms that a run may be of: those at levels in reserve, and those whose runs try levels, included."""
        levels = (*self.arms, *self.reserve)
        return (*levels, *(arm.trial for arm in levels if arm.trial and arm.trial.id != arm.id))

    @property
    def possible_runs(self) -> tuple[PlannedRun, ...]:
        """The runs of which those that are made will be some."""
        levels = (*self.arms, *self.reserve)
        return (*seed_by_seed([arm.trial for arm in levels if arm.trial]), *seed_by_seed(levels))

    def at(self, chosen: Collection[str]) -> SweepPlan:
        """Return the plan of the comparison: each arm at its chosen level, without arms that have none. `chosen`: their ids."""
        arms = [arm for arm in (*self.arms, *self.reserve) if arm.id in chosen]
        position = {tuned: i for i, tuned in enumerate(dict.fromkeys(arm.tuned for arm in self.arms))}
        arms.sort(key=lambda arm: position[arm.tuned])
        return replace(self, arms=tuple(arms), reserve=(), lost_baseline=[a.tuned for a in arms[:1]] != [self.baseline.tuned])

    def setting(self, arm: ComposedArm) -> Levels:
        """Return the arm's levels of the tuned axes."""
        return {axis: level for axis, level in arm.levels.items() if axis in self.tune}

    def with_inputs(self, inputs: Mapping[str, Inputs]) -> SweepPlan:
        """Return the plan with its final ids, without arms that differ only in where the same data lie. `inputs`: by arm's id."""
        levels = with_inputs((*self.arms, *self.reserve), inputs, self.tune)
        arms, duplicates = without_duplicates(levels[: len(self.arms)], self.design, self.factors)
        reserve, _ = without_duplicates([*arms, *levels[len(self.arms) :]], self.design, self.factors)
        dropped = (*self.dropped, *duplicates)
        return replace(self, arms=tuple(arms), dropped=dropped, reserve=tuple(reserve[len(arms) :]))

    def without_arms(self, impossible: Mapping[str, str]) -> SweepPlan:
        """Return the plan without the `impossible` arms (id -> reason).

        UsageError when the baseline is impossible, or all arms with a key that was added by `+`.
        """
        reasons = {impossible.get(arm.id) for arm in self.arms}
        if None not in reasons and len(reasons) == 1:
            raise UsageError(impossible[self.baseline.id])
        if all(arm.id in impossible for arm in self.compared[0]):  # one working level of the tuned keys is enough
            raise UsageError(
                impossible_baseline(levels_text(self.baseline.levels) or "defaults", impossible[self.baseline.id], len(self.arms))
            )
        dropped = tuple(Dropped(arm.overrides, impossible[arm.id]) for arm in self.arms if arm.id in impossible)
        arms = tuple(arm for arm in self.arms if arm.id not in impossible)
        for axis in self.request.axes:  # Hydra accepts any key with a +, even a misspelt one
            added = [arm for arm in self.arms if axis.key != axis.name and f"{axis.key}=" in " ".join(arm.overrides)]
            if added and all(arm.id in impossible for arm in added):
                raise UsageError(impossible[added[0].id])
        reserve = tuple(arm for arm in self.reserve if arm.id not in impossible)
        return replace(self, arms=arms, dropped=self.dropped + dropped, reserve=reserve)


def seed_by_seed(arms: Iterable[ComposedArm]) -> tuple[PlannedRun, ...]:
    """Return the runs of the arms: the first of each, then the second, and so on."""
    rows = itertools.zip_longest(*(arm.runs for arm in arms))
    return tuple(run for row in rows for run in row if run is not None)


def make_plan(
    request: SweepRequest, settings: SweepSettings, loader: ConfigLoader, master: DictConfig, stored: Manifest | None = None
) -> SweepPlan:
    """Compose every arm of the request. `stored`: the manifest of the sweep that the command continues.

    UsageError when the settings do not fit the axes; Hydra's own errors for keys and options that no arm can be composed with.
    """
    request, settings = by_role(request, settings)
    chosen = {str(axis): level_text(level) for axis, level in (settings.baseline or {}).items()}
    tuning.validate(request, settings.tuned, chosen)
    seed_zips, tuned_zips, ingredient_zips = designing.partition_zips(
        settings.zip, [axis.name for axis in request.seeds], settings.tuned
    )
    ingredients = {axis.name: axis.levels for axis in request.axes if axis.name not in settings.tuned}
    cells = designing.design_arms(settings.design, designing.factors(ingredients, ingredient_zips), chosen)
    tried = tuning.tried_levels(request, settings, tuned_zips, stored)
    seeds, repeated = _distinct(designing.crossed(request.seeds, seed_zips))
    composer = Composer(loader, master, replace(request, baseline=None if settings.design == "grid" else cells[0]))
    groups, reserve, failures = list[list[ComposedArm]](), list[ComposedArm](), list[Failure]()
    for cell in cells:
        named, failed = composer.levels([{**cell, **level} for level in tried.named], seeds, tried.tuning)
        further = [{**cell, **level} for level in tried.further] if named else []
        grouped = tuning.group_tuned([*named, *composer.levels(further, seeds, tried.tuning)[0]], settings.tuned)
        groups, failures = [*groups, *grouped[: len(named)]], [*failures, *failed]
        reserve += [arm for arms in grouped[len(named) :] for arm in arms]
    requested = [{**cell, **level} for cell in cells for level in tried.named]
    if (unusable := unusable_combination(requested, failures)) is not None:
        composer.level(unusable, seeds, tried.tuning)  # raises its error again
    dropped = [Dropped(_override_lines(levels), "named twice") for levels in repeated]
    dropped += [Dropped(request.overrides(failure.levels), failure.reason) for failure in failures]
    arms, duplicates = without_duplicates([arm for group in groups for arm in group], settings.design, list(ingredients))
    further, _ = without_duplicates([*arms, *reserve], settings.design, list(ingredients))
    zipped = tuple(tuple(group) for group in settings.zip)
    tuning.validate_split(arms, settings.tuned)
    tuning.validate_trials(arms, tried.tuning)
    return SweepPlan(
        request,
        settings.design,
        zipped,
        tuple(arms),
        (*dropped, *duplicates),
        settings.tuned,
        tuning=tried.tuning,
        reserve=tuple(further[len(arms) :]),
        ladders=tried.ladders,
    )


def _distinct(rows: Sequence[Levels]) -> tuple[list[Levels], list[Levels]]:
    distinct: dict[frozenset[tuple[str, str]], Levels] = {}
    repeated: list[Levels] = []
    for row in rows:
        key = frozenset(row.items())
        if distinct.setdefault(key, row) is not row:
            repeated.append(row)
    return list(distinct.values()), repeated


def _override_lines(levels: Levels) -> tuple[str, ...]:
    return tuple(f"{axis}={level}" for axis, level in levels.items())
