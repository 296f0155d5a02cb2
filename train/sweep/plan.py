"""The plan of a sweep: every arm of the request composed as Hydra would, with the identities of its runs, without duplicates.

An arm is composed once; the configurations of its other seeds are derived if only `seed` and `seeds` can depend on the seed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from train.config_errors import is_composition_error
from train.errors import UsageError
from train.naming import job_name, levels_text
from train.run.job import chosen_options, resolve_config
from train.store.identity import SEEDS, arm_id, experiment_of, identity, run_id
from train.store.inputs import Inputs
from train.store.manifest import Design, Dropped, PlannedRun
from train.store.planned_names import names_of
from train.sweep import design as designing
from train.sweep import tuning
from train.sweep.arms import with_inputs, without_duplicates
from train.sweep.axes import Axis, SweepRequest, level_text
from train.sweep.compose import Compositions, hydra_config
from train.sweep.design import ComposedArm, Levels
from train.sweep.failures import Failure, impossible_baseline, unusable_combination
from train.sweep.settings import SweepSettings

PLAIN_REFERENCE = re.compile(r"\$\{(oc\.env:[^${}]*|hydra:[^${}]*|\.*[A-Za-z_][\w.\[\]]*)\}")
"""Interpolations that cannot depend on a seed unless their text names it."""


@dataclass(frozen=True)
class SweepPlan:
    """The arms and runs of a sweep; the first arm is the baseline.

    Until `with_inputs` tells what lies there, the id of an arm has the place of its data instead of their content, and that of a
    run neither. `first_batches`: see `Manifest`.

    If keys are tuned (`tune`), every combination of their levels is an arm here; `compared` groups them into the arms that the
    report compares.
    """

    request: SweepRequest
    design: Design
    zipped: tuple[tuple[str, ...], ...]
    arms: tuple[ComposedArm, ...]
    dropped: tuple[Dropped, ...]
    tune: tuple[str, ...] = ()
    first_batches: Mapping[str, str] = field(default_factory=dict)

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
        rows = itertools.zip_longest(*(arm.runs for arm in self.arms))
        return tuple(run for row in rows for run in row if run is not None)

    def with_inputs(self, inputs: Mapping[str, Inputs]) -> SweepPlan:
        """Return the plan with its final ids, without arms that differ only in where the same data lie. `inputs`: by arm's id."""
        arms, duplicates = without_duplicates(with_inputs(self.arms, inputs, self.tune), self.design, self.factors)
        return replace(self, arms=tuple(arms), dropped=(*self.dropped, *duplicates))

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
        return replace(self, arms=arms, dropped=self.dropped + dropped)


def make_plan(request: SweepRequest, settings: SweepSettings, loader: ConfigLoader, master: DictConfig) -> SweepPlan:
    """Compose every arm of the request.

    UsageError when the settings do not fit the axes; Hydra's own errors for keys and options that no arm can be composed with.
    """
    chosen = {str(axis): level_text(level) for axis, level in (settings.baseline or {}).items()}
    tuning.validate(request, settings.tuned, chosen)
    seed_zips, tuned_zips, ingredient_zips = designing.partition_zips(
        settings.zip, [axis.name for axis in request.seeds], settings.tuned
    )
    ingredients = {axis.name: axis.levels for axis in request.axes if axis.name not in settings.tuned}
    cells = designing.design_arms(settings.design, designing.factors(ingredients, ingredient_zips), chosen)
    tuned_levels, _ = _distinct(_crossed([axis for axis in request.axes if axis.name in settings.tuned], tuned_zips))
    seeds, repeated = _distinct(_crossed(request.seeds, seed_zips))
    composer = Composer(loader, master, request)
    requested, groups, failures = list[Levels](), [], list[Failure]()
    for cell in cells:
        cell_arms: list[list[ComposedArm]] = []
        for levels in ({**cell, **level} for level in tuned_levels):
            requested.append(levels)
            try:
                cell_arms.append(list(composer.arms(levels, seeds)))
            except Exception as error:
                if not (isinstance(error, UsageError) or is_composition_error(error)):
                    raise
                failures.append(Failure.of(levels, error))  # not the error, whose traceback keeps whole configurations
        groups += tuning.group_tuned(cell_arms, settings.tuned)
    if (unusable := unusable_combination(requested, failures)) is not None:
        list(composer.arms(unusable, seeds))  # raises its error again
    dropped = [Dropped(_override_lines(levels), "named twice") for levels in repeated]
    dropped += [Dropped(request.overrides(failure.levels), failure.reason) for failure in failures]
    arms, duplicates = without_duplicates([arm for group in groups for arm in group], settings.design, list(ingredients))
    zipped = tuple(tuple(group) for group in settings.zip)
    tuning.validate_split(arms, settings.tuned)
    return SweepPlan(request, settings.design, zipped, tuple(arms), (*dropped, *duplicates), settings.tuned)


class Composer:
    """Composes arms. `master`: the composed configuration of the sweep, whose Hydra overrides apply to every job."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, request: SweepRequest) -> None:
        self.compositions, self.request = Compositions(loader, master), request
        self.parser = OverridesParser.create()

    def arms(self, levels: Levels, seeds: Sequence[Levels]) -> Iterator[ComposedArm]:
        """Yield the arm at `levels` with a run for each of `seeds`; several arms if other keys depend on the seed too."""
        config = self.compose({**levels, **seeds[0]})
        all_levels = self.all_levels(levels, config)
        choices = chosen_options(config.hydra.runtime.choices)
        runs_of_arms: dict[str, list[tuple[Mapping[str, Any], PlannedRun]]] = {}
        for seed_levels, content in self.variants(config, levels, seeds):
            overrides = self.request.overrides({**levels, **seed_levels})
            run = PlannedRun(identity(content), run_id(arm_id(content), content, ""), job_name(overrides), overrides)
            runs_of_arms.setdefault(run.arm, []).append((content, run))
        for id, members in runs_of_arms.items():
            runs = tuple({run.identity: run for _, run in members}.values())
            overrides = self.request.overrides(levels)
            yield ComposedArm(id, all_levels, overrides, config=members[0][0], choices=choices, runs=runs)

    def compose(self, levels: Levels) -> DictConfig:
        return self.compositions.compose(self.request.overrides(levels))

    def variants(self, config: DictConfig, levels: Levels, seeds: Sequence[Levels]) -> Iterator[tuple[Levels, Mapping[str, Any]]]:
        """Yield each of `seeds` with the resolved configuration of its experiment."""
        content = experiment_content(config)
        yield seeds[0], content
        can_derive = len(seeds) > 1 and self.can_derive_seeds(config)
        for seed_levels in seeds[1:]:
            if not can_derive:
                yield seed_levels, experiment_content(self.compose({**levels, **seed_levels}))
                continue
            for override in self.parser.parse_overrides([f"{name}={level}" for name, level in seed_levels.items()]):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)  # the way Hydra applies it
            yield seed_levels, content | {key: _resolved(config, key) for key in SEEDS if key in config}

    def can_derive_seeds(self, config: DictConfig) -> bool:
        """Return whether seeds can be set in the composed configuration afterwards.

        They can if their axes set existing keys that no constant sets and that no other key refers to.
        """
        if any(axis.key != axis.name for axis in self.request.seeds):
            return False
        if any(name.lstrip("~").partition(".")[0] in SEEDS for name in self.request.constants):
            return False
        rest = {key: node for key, node in _unresolved(config).items() if key not in (*SEEDS, "hydra")}
        return all(_independent_of_seeds(text) for text in _texts(rest))

    def all_levels(self, levels: Levels, config: DictConfig) -> Levels:
        """Return the arm's level of every axis, read from `config` for the axes that the arm does not set."""
        choices = config.hydra.runtime.choices
        complete = {}
        for axis in self.request.axes:
            if axis.name in levels:
                complete[axis.name] = levels[axis.name]
            elif axis.name in choices:
                complete[axis.name] = level_text(_plain(choices[axis.name]))
            else:
                complete[axis.name] = level_text(_plain(OmegaConf.select(config, axis.name)))
        return complete


def experiment_content(config: DictConfig) -> dict[str, Any]:
    """Resolve the experiment as its run will. UsageError for a missing value or an interpolation that cannot be resolved."""
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.copy_cache(from_config=config, to_config=task)
    with hydra_config(config):
        return experiment_of(resolve_config(task))


def _crossed(axes: Sequence[Axis], zipped: Sequence[Sequence[str]]) -> list[Levels]:
    return designing.all_combinations(designing.factors({axis.name: axis.levels for axis in axes}, zipped))


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


def _resolved(config: DictConfig, key: str) -> Any:
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _unresolved(config: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for child in node.values():
            yield from _texts(child)
    elif isinstance(node, Sequence):
        for child in node:
            yield from _texts(child)


def _independent_of_seeds(text: str) -> bool:
    rest = PLAIN_REFERENCE.sub("", text)
    return "${" not in rest and not any("seed" in match[1] for match in PLAIN_REFERENCE.finditer(text))
