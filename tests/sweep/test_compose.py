"""Compositions of jobs against Hydra's own, on random overrides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.sweep.compose import Compositions, hydra_config

CHOICES = (
    "norm=batch",
    "norm=group",
    "optimizer=sgd",
    "model=resnet",
    "augment=[multi_scale,flip]",
    "~schedule",
    "experiment=none",
)
VALUES = (
    *("null", "true", "3", "1e-3", "-.5", "inf", "text", "'a,b c'", '"x=1: y"', "[1,2,[3]]", "[]", "{a: 1, b: [x]}", "{}", "''"),
    *("${seed}", "'${optimizer.lr}'", "'a${trainer.epochs}b'", "${oc.env:HOME}", "${hydra:job.num}", "${.batch_size}", "???"),
    *("sort(3,1)", "cast(3,str)", "1,2", "range(3)", "choice(1,2)", r"\\", "5_0", "0x1f", "nan", "x.y", "a/b", "10:20"),
)
KEYS = (
    *(
        "seed",
        "seeds.init",
        "seeds.order",
        "optimizer.lr",
        "trainer.epochs",
        "trainer.max_steps",
        "trainer.grad_clip",
        "data.shape",
    ),
    *(
        "model.width",
        "norm.groups",
        "observe.every",
        "observe.thresholds.dead",
        "trust",
        "nothing",
        "trainer.nothing",
        "sweep.zip",
    ),
    *(
        "optimizer",
        "norm",
        "trainer",
        "seeds",
        "seeds.init.x",
        "hydra.sweep.subdir",
        "hydra.job.name",
        "hydra.sweep",
        "report.metric",
    ),
)
NAMED = ("hydra.run.dir=there", "hydra.sweep.dir=here")
"""Names that are drawn anew each time else."""
PREFIXES = ("", "", "", "", "", "+", "++", "~")


def random_overrides(dice: random.Random) -> list[str]:
    """Return overrides of which many cannot be composed, and some cancel each other."""
    lines = dice.sample(CHOICES, dice.choice([0, 1, 1, 2]))
    keys = [dice.choice(KEYS) for _ in range(dice.choice([1, 2, 2, 3]))]
    lines += [f"{dice.choice(PREFIXES)}{key}={dice.choice(VALUES)}" for key in keys]
    dice.shuffle(lines)
    return lines


def described(config: DictConfig) -> Any:
    """Return everything in a configuration, before and after interpolation, with types and flags."""
    with hydra_config(config):
        resolved = [_resolved(config, str(key)) for key in config]
    flags = [OmegaConf.is_struct(config), OmegaConf.is_readonly(config.hydra), OmegaConf.is_struct(config.hydra)]
    return typed(OmegaConf.to_container(config, resolve=False)), resolved, flags


def _resolved(config: DictConfig, key: str) -> Any:
    try:
        node = config[key]
        return typed(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)
    except OmegaConfBaseException as error:
        return type(error)


def typed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: typed(value) for key, value in node.items()}, list(node)
    return [typed(value) for value in node] if isinstance(node, list) else (type(node), repr(node))


def outcome(compose: Any, overrides: list[str]) -> Any:
    try:
        return described(compose(overrides))
    except (HydraException, ValueError) as error:  # ValueError: Hydra's own, for a wrong kind of choice
        return type(error), str(error)


def check(loader: Any, seeds: range, settings: list[str]) -> None:
    master = loader.load_configuration("config", [*NAMED, *settings], RunMode.MULTIRUN)
    compositions, dice = Compositions(loader, master), random.Random(seeds.start)
    composed = 0
    for _ in seeds:
        overrides = random_overrides(dice)
        expected = outcome(lambda lines: loader.load_sweep_config(master, lines), overrides)
        assert outcome(compositions.compose, overrides) == expected, overrides
        composed += len(expected) == 3
    assert 0.1 * len(seeds) < composed < 0.95 * len(seeds)


def test_compose_equals_hydras_composition(loader: Any) -> None:
    check(loader, range(12), [])


@pytest.mark.long
@pytest.mark.parametrize("settings", [["hydra/sweeper=basic"], ["hydra.job.chdir=true", "study=norms"]])
def test_compose_equals_hydras_composition_in_many_cases(loader: Any, settings: list[str]) -> None:
    check(loader, range(1000, 1200), settings)


IN_ORDER = (
    ["optimizer.lr=0.5", "+model.note='a,b'", "trainer.epochs=2", "hydra.sweep.subdir=x"],
    ["optimizer={lr: 0.5}", "optimizer.lr=0.25"],
    ["+new.a=${seed}", "new.a=${optimizer.lr}", "++new.b=null"],
)


def test_compose_equals_hydras_composition_in_order(loader: Any) -> None:
    master = loader.load_configuration("config", list(NAMED), RunMode.MULTIRUN)
    compositions = Compositions(loader, master)
    for lines in [order for overrides in IN_ORDER for order in (overrides, overrides[::-1])]:
        assert outcome(compositions.compose, lines) == outcome(lambda x: loader.load_sweep_config(master, x), lines), lines
