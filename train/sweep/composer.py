"""Arms composed as Hydra would, with the identities of their runs.

An arm is composed once; the configurations of its other seeds are derived if only `seed` and `seeds` can depend on the seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from train.config_errors import is_composition_error
from train.errors import UsageError
from train.naming import job_name
from train.run.job import chosen_options, resolve_config
from train.store.choices import Tuning
from train.store.identity import SEEDS, arm_id, experiment_of, identity, run_id
from train.store.manifest import PlannedRun
from train.sweep.arms import with_trial
from train.sweep.axes import SweepRequest, level_text
from train.sweep.compose import Compositions, hydra_config
from train.sweep.design import ComposedArm, Levels
from train.sweep.failures import Failure
from train.sweep.trials import trial_request

PLAIN_REFERENCE = re.compile(r"\$\{(oc\.env:[^${}]*|hydra:[^${}]*|\.*[A-Za-z_][\w.\[\]]*)\}")
"""Interpolations that cannot depend on a seed unless their text names it."""


SEED_IS_AN_ARM = (
    "sweep.tune: another key depends on the seed, so that each seed is an arm of its own, and no level can be tried with others. "
    "Name the seeds in that key, or omit sweep.tune."
)


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
            name = job_name(overrides, self.request.axes_alone({**levels, **seed_levels}))
            run = PlannedRun(identity(content), run_id(arm_id(content), content, ""), name, overrides)
            runs_of_arms.setdefault(run.arm, []).append((content, run))
        for id, members in runs_of_arms.items():
            runs = tuple({run.identity: run for _, run in members}.values())
            overrides = self.request.overrides(levels)
            yield ComposedArm(id, all_levels, overrides, config=members[0][0], choices=choices, runs=runs)

    def levels(
        self, requested: Sequence[Levels], seeds: Sequence[Levels], tuning: Tuning | None
    ) -> tuple[list[list[ComposedArm]], list[Failure]]:
        """Return the arms at each of the `requested` levels that can be composed, and why the others cannot."""
        composed, failures = list[list[ComposedArm]](), list[Failure]()
        for levels in requested:
            try:
                composed.append(self.level(levels, seeds, tuning))
            except Exception as error:
                if not (isinstance(error, UsageError) or is_composition_error(error)):
                    raise
                failures.append(Failure.of(levels, error))  # not the error, whose traceback keeps whole configurations
        return composed, failures

    def level(self, levels: Levels, seeds: Sequence[Levels], tuning: Tuning | None) -> list[ComposedArm]:
        """Return the arm at `levels` as `arms` does, with the runs that try its level. UsageError where it cannot have any."""
        arms = list(self.arms(levels, seeds))
        if tuning is None:
            return arms
        request, trial_seeds = trial_request(self.request, arms[0].config, tuning)
        composer = copy(self)
        composer.request = request
        fixed = {axis: level for axis, level in levels.items() if axis in {axis.name for axis in request.axes}}
        trials = list(composer.arms(fixed, trial_seeds))
        if max(len(arms), len(trials)) > 1:
            raise UsageError(SEED_IS_AN_ARM)
        return [with_trial(arms[0], trials[0])]

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
