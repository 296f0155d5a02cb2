"""From what a command asks for to the runs it means: every arm composed as Hydra would, with its identity, duplicates found.

Composing takes some 75 ms. An arm is composed once; its other seeds are derived where nothing but `seed` and `seeds` can depend
on them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from train.config_errors import COULD_NOT_OVERRIDE, plain_message
from train.errors import UsageError
from train.naming import job_name
from train.run.job import chosen_options, resolve
from train.store.identity import SEEDS, arm_id, experiment_of, identity
from train.store.manifest import Design, Dropped, PlannedRun
from train.sweep import design as designing
from train.sweep import tuning
from train.sweep.arm import ComposedArm
from train.sweep.axes import Axis, SweepRequest, level_text
from train.sweep.design import Levels
from train.sweep.settings import SweepSettings

PLAIN_REFERENCE = re.compile(r"\$\{(oc\.env:[^${}]*|hydra:[^${}]*|\.*[A-Za-z_][\w.\[\]]*)\}")
"""Interpolations whose value is known not to depend on the seeds unless they name them."""

COMPOSING = (HydraException, OmegaConfBaseException)


@dataclass(frozen=True)
class SweepPlan:
    """The first arm is the baseline. Where keys are tuned (`tune`), every combination of their levels is an arm in here; the arms
    that are compared in the end are the `compared`."""

    request: SweepRequest
    design: Design
    zipped: tuple[tuple[str, ...], ...]
    arms: tuple[ComposedArm, ...]
    dropped: tuple[Dropped, ...]
    tune: tuple[str, ...] = ()

    @property
    def baseline(self) -> ComposedArm:
        return self.arms[0]

    @property
    def compared(self) -> tuple[tuple[ComposedArm, ...], ...]:
        """Arms that differ in tuned keys alone, together."""
        found: dict[str, list[ComposedArm]] = {}
        for arm in self.arms:
            found.setdefault(arm.tuned or arm.id, []).append(arm)
        return tuple(map(tuple, found.values()))

    def ingredients(self, arm: ComposedArm) -> Levels:
        """Its levels of the axes that are compared."""
        return {axis: level for axis, level in arm.levels.items() if axis not in self.tune}

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Seed by seed, so that a sweep cut short has compared every arm."""
        rows = itertools.zip_longest(*(arm.runs for arm in self.arms))
        return tuple(run for row in rows for run in row if run is not None)

    def without_arms(self, impossible: Mapping[str, str]) -> SweepPlan:
        """Less the arms found impossible (id -> reason). UsageError when the baseline is, or all of a key that was added."""
        reasons = {impossible.get(arm.id) for arm in self.arms}
        if None not in reasons and len(reasons) == 1:
            raise UsageError(impossible[self.baseline.id])
        if all(arm.id in impossible for arm in self.compared[0]):  # of tuned keys, one level that works is enough
            raise UsageError(_impossible_baseline(self.baseline.name, impossible[self.baseline.id], len(self.arms)))
        gone = tuple(Dropped(arm.overrides, impossible[arm.id]) for arm in self.arms if arm.id in impossible)
        left = tuple(arm for arm in self.arms if arm.id not in impossible)
        for axis in self.request.axes:  # Hydra takes every key that has a +, also a misspelt one
            added = [arm for arm in self.arms if axis.key != axis.name and f"{axis.key}=" in " ".join(arm.overrides)]
            if added and all(arm.id in impossible for arm in added):
                raise UsageError(impossible[added[0].id])
        return replace(self, arms=left, dropped=self.dropped + gone)


def make_plan(request: SweepRequest, settings: SweepSettings, loader: ConfigLoader, master: DictConfig) -> SweepPlan:
    """Compose everything. UsageError for what the design cannot mean; Hydra's own errors for keys and options that fit no arm."""
    chosen = {str(axis): level_text(level) for axis, level in (settings.baseline or {}).items()}
    tuning.validate(request, settings.tuned, chosen)
    of_seeds, of_tuned, of_axes = designing.partition_zips(settings.zip, [axis.name for axis in request.seeds], settings.tuned)
    ingredients = {axis.name: axis.levels for axis in request.axes if axis.name not in settings.tuned}
    cells = designing.design_arms(settings.design, designing.factors(ingredients, of_axes), chosen)
    tried, _ = _distinct(_crossed([axis for axis in request.axes if axis.name in settings.tuned], of_tuned))
    seeds, repeated = _distinct(_crossed(request.seeds, of_seeds))
    composer = Composer(loader, master, request)
    wanted, arms, failures = [], [], []
    for cell in cells:
        of_cell: list[list[ComposedArm]] = []
        for levels in ({**cell, **level} for level in tried):
            wanted.append(levels)
            try:
                of_cell.append(list(composer.arms(levels, seeds)))
            except (*COMPOSING, UsageError) as error:
                failures.append((levels, error))
        arms += tuning.group_tuned(of_cell, settings.tuned)
    _refuse_what_never_fits(wanted, failures)
    dropped = [Dropped(_lines(levels), "named twice") for levels in repeated]
    dropped += [Dropped(request.overrides(levels), reason_text(error)) for levels, error in failures]
    found, same = _once_each([arm for several in arms for arm in several])
    zipped = tuple(tuple(group) for group in settings.zip)
    tuning.validate_split(found, settings.tuned)
    return SweepPlan(request, settings.design, zipped, tuple(found), (*dropped, *same), settings.tuned)


class Composer:
    """Makes arms of levels. `master`: the composed configuration of the sweep, whose Hydra overrides hold for every job."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, request: SweepRequest) -> None:
        self.loader, self.master, self.request = loader, master, request
        self.parser = OverridesParser.create()

    def arms(self, levels: Levels, seeds: Sequence[Levels]) -> Iterator[ComposedArm]:
        """The arm at `levels` with a run for each of `seeds`; several where more than its seeds depends on the seed."""
        config = self.compose({**levels, **seeds[0]})
        complete = self.complete(levels, config)
        choices = chosen_options(config.hydra.runtime.choices)
        grouped: dict[str, list[tuple[Mapping[str, Any], PlannedRun]]] = {}
        for of_run, content in self.variants(config, levels, seeds):
            overrides = self.request.overrides({**levels, **of_run})
            run = PlannedRun(identity(content), arm_id(content), job_name(overrides), overrides)
            grouped.setdefault(run.arm, []).append((content, run))
        for id, members in grouped.items():
            runs = tuple({run.identity: run for _, run in members}.values())
            yield ComposedArm(id, complete, self.request.overrides(levels), members[0][0], choices, runs)

    def compose(self, levels: Levels) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(self.request.overrides(levels)))

    def variants(self, config: DictConfig, levels: Levels, seeds: Sequence[Levels]) -> Iterator[tuple[Levels, Mapping[str, Any]]]:
        """Each of `seeds` with the experiment's resolved configuration."""
        content = experiment_content(config)
        yield seeds[0], content
        derivable = len(seeds) > 1 and self.derivable(config)
        for of_run in seeds[1:]:
            if not derivable:
                yield of_run, experiment_content(self.compose({**levels, **of_run}))
                continue
            for override in self.parser.parse_overrides([f"{name}={level}" for name, level in of_run.items()]):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)  # as Hydra applies it
            yield of_run, content | {key: _resolved(config, key) for key in SEEDS if key in config}

    def derivable(self, config: DictConfig) -> bool:
        """Whether seeds can be put into the composed configuration afterwards: their axes set keys that are there, that no
        constant sets too, and that nothing else refers to."""
        if any(axis.key != axis.name for axis in self.request.seeds):
            return False
        if any(name.lstrip("~").partition(".")[0] in SEEDS for name in self.request.constants):
            return False
        rest = {key: node for key, node in _unresolved(config).items() if key not in (*SEEDS, "hydra")}
        return all(_independent_of_seeds(text) for text in _texts(rest))

    def complete(self, levels: Levels, config: DictConfig) -> Levels:
        """With the level that each axis has where the arm leaves it as it is."""
        choices = config.hydra.runtime.choices
        known = {}
        for axis in self.request.axes:
            if axis.name in levels:
                known[axis.name] = levels[axis.name]
            elif axis.name in choices:
                known[axis.name] = level_text(_plain(choices[axis.name]))
            else:
                known[axis.name] = level_text(_plain(OmegaConf.select(config, axis.name)))
        return known


def experiment_content(config: DictConfig) -> dict[str, Any]:
    """The experiment as its run will resolve it. UsageError for a value that is missing or leads nowhere."""
    known = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # for ${hydra:...}
    try:
        task = config.copy()
        with open_dict(task):
            del task["hydra"]
        return experiment_of(resolve(task))
    finally:
        HydraConfig.instance().cfg = known


def reason_text(error: Exception) -> str:
    """Why a combination was not composed, in words."""
    match = COULD_NOT_OVERRIDE.search(str(error))
    if match:
        return f"{match['key']}: there is no such key in this combination."
    return str(error) if isinstance(error, UsageError) else plain_message(error)


def _refuse_what_never_fits(wanted: Sequence[Levels], failures: Sequence[tuple[Levels, Exception]]) -> None:
    """A level that no arm can be composed with is a mistake of typing, not an impossible combination: the error is raised."""
    if not failures:
        return
    failed = [levels for levels, _ in failures]
    for levels, error in failures:
        key = COULD_NOT_OVERRIDE.search(str(error))
        for axis, level in levels.items():
            to_blame = isinstance(error, COMPOSING) and (key is None or key["key"] == axis)
            if to_blame and all(arm in failed for arm in wanted if arm.get(axis) == level):
                raise error
    first, error = failures[0]
    if len(failures) == len(wanted):
        raise error
    if first == wanted[0]:
        name = " ".join(_lines(first)) or "defaults"
        raise UsageError(_impossible_baseline(name, reason_text(error), len(wanted)))


def _impossible_baseline(name: str, reason: str, arms: int) -> str:
    if arms == 1:
        return reason
    return f"The baseline ({name}) is impossible, and every arm is held against it: {reason} Choose another: sweep.baseline."


def _once_each(arms: Sequence[ComposedArm]) -> tuple[list[ComposedArm], list[Dropped]]:
    found: dict[str, ComposedArm] = {}
    same = []
    for arm in arms:
        if arm.id in found:
            which = "the baseline" if arm.id == arms[0].id else found[arm.id].name
            same.append(Dropped(arm.overrides, f"the same configuration as {which}"))
        else:
            found[arm.id] = arm
    return list(found.values()), same


def _crossed(axes: Sequence[Axis], zipped: Sequence[Sequence[str]]) -> list[Levels]:
    return designing.all_combinations(designing.factors({axis.name: axis.levels for axis in axes}, zipped))


def _distinct(rows: Sequence[Levels]) -> tuple[list[Levels], list[Levels]]:
    found: list[Levels] = []
    repeated: list[Levels] = []
    for row in rows:
        (repeated if row in found else found).append(row)
    return found, repeated


def _lines(levels: Levels) -> tuple[str, ...]:
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
