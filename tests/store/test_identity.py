"""Ids are stable: a new key, another way to execute a run and a moved function do not change them."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from tests.harness import SMALL, compose_config
from train.store.identity import (
    INTRODUCED,
    VERSION,
    KeyRule,
    Rules,
    arm_id,
    canonical,
    current_target,
    identity,
    is_execution_key,
    run_id,
    upgraded,
)

CONFIG: dict[str, Any] = {
    "seed": 1,
    "seeds": {"init": 1},
    "data": {"_target_": "train.data.noise.noise", "workers": 2, "root": None},
    "augment": {"crop": {"_target_": "train.parts.augment.crop", "padding": 4}},
    "norm": {"_target_": "train.parts.norm.group", "groups": 4},
    "trainer": {"epochs": 3},
    "sweep": {"design": "grid"},
}


def first_identity(config: dict[str, Any]) -> str:
    """Return the identity as commit 03bcfb5 computed it."""
    content = {key: value for key, value in config.items() if key not in ("sweep", "report", "checkpoint", "resume", "trust")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def before_introductions(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys that were introduced since."""
    introduced = {rule.key for rule in INTRODUCED}
    groups = {key.partition(".")[0] for key in introduced}
    old = {group: {key: v for key, v in config[group].items() if f"{group}.{key}" not in introduced} for group in groups}
    return {**config, **old}


def config_with(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    group, _, name = key.partition(".")
    config[group][name] = value
    return config


def test_identity_of_every_version_agrees_at_default_execution_keys() -> None:
    composed: dict[str, Any] = compose_config(SMALL)
    for version in range(1, VERSION + 1):
        assert identity(CONFIG, version) == first_identity(CONFIG)
        assert identity(composed, version) == first_identity(before_introductions(composed))


@pytest.mark.parametrize("version", [0, VERSION + 1])
def test_identity_refuses_unknown_version(version: int) -> None:
    with pytest.raises(ValueError, match="no version"):
        identity(CONFIG, version)


def test_identity_ignores_execution_keys_from_version_two_on() -> None:
    config = config_with("data.workers", 0)
    assert identity(config) == identity(CONFIG)
    assert arm_id(config) == arm_id(CONFIG)
    assert identity(config, 1) == first_identity(config) != identity(CONFIG, 1)


@pytest.mark.parametrize("choice", ["data=cifar10", "data=svhn", "data=image_folder"])
def test_identity_ignores_data_download_and_check(choice: str) -> None:
    key = "data.check" if choice == "data=image_folder" else "data.download"
    root = ["data.root=photos"] if choice == "data=image_folder" else []
    enabled, disabled = (compose_config([choice, *root, f"{key}={value}"]) for value in ("true", "false"))
    assert identity(enabled) == identity(disabled)
    assert identity(enabled, 1) != identity(disabled, 1)


def test_identity_includes_an_equally_named_key_of_another_function() -> None:
    """`data.check` may mean something else in a user's data set."""
    enabled, disabled = config_with("data.check", True), config_with("data.check", False)
    assert identity(enabled) != identity(disabled)


@pytest.mark.parametrize("key", ["norm.groups", "trainer.epochs"])
def test_identity_depends_on_every_other_key(key: str) -> None:
    assert identity(config_with(key, 17)) != identity(CONFIG)


def test_identity_ignores_the_place_of_data_from_version_three_on() -> None:
    """What lies there enters instead; the place stands for data that are unknown."""
    here, there = config_with("data.root", "here"), config_with("data.root", "there")
    assert identity(here) == identity(there) == identity(CONFIG)
    assert arm_id(here) == arm_id(CONFIG)
    assert identity(here, 2) != identity(there, 2)
    ids = [run_id(identity(config), config, data) for config in (here, there) for data in ("1a2b", "3c4d", "")]
    assert ids[:2] == ids[3:5]
    assert len(set(ids)) == 4
    assert run_id(identity(CONFIG), CONFIG, "") == identity(CONFIG)


NEW_KEY = Rules(introduced=(KeyRule("trainer.cuda_graph", "auto"), KeyRule("norm.affine", True, target="train.parts.norm.group")))


def test_identity_ignores_introduced_key_at_its_default() -> None:
    new = config_with("trainer.cuda_graph", "auto")
    for version in range(1, VERSION + 1):
        assert identity(new, version, NEW_KEY) == identity(CONFIG, version)
    assert identity(config_with("trainer.cuda_graph", "false"), rules=NEW_KEY) != identity(CONFIG)
    assert identity(config_with("norm.affine", True), rules=NEW_KEY) == identity(CONFIG)
    assert identity(config_with("norm.affine", False), rules=NEW_KEY) != identity(CONFIG)


def test_identity_ignores_introduced_execution_key_at_any_value() -> None:
    for value in ("auto", True, False):
        assert identity(config_with("trainer.cuda_graph", value)) == identity(CONFIG)
    assert upgraded(CONFIG)["trainer"]["cuda_graph"] == "auto"


def test_upgraded_fills_in_introduced_keys_of_matching_functions() -> None:
    assert upgraded(CONFIG, NEW_KEY)["trainer"] == {"epochs": 3, "cuda_graph": "auto"}
    assert upgraded(CONFIG, NEW_KEY)["norm"]["affine"] is True
    batch = config_with("norm._target_", "train.parts.norm.batch")
    assert "affine" not in upgraded(batch, NEW_KEY)["norm"]
    assert upgraded(config_with("trainer.cuda_graph", "false"), NEW_KEY)["trainer"]["cuda_graph"] == "false"
    assert "cuda_graph" not in CONFIG["trainer"], "the argument is not changed"


def test_introduced_key_of_a_choice_is_not_filled_in_elsewhere() -> None:
    """A function of the user's own may have a longer name that begins alike."""
    other = config_with("norm._target_", "train.parts.norm.group_of")
    assert upgraded(other, NEW_KEY)["norm"] == other["norm"]
    assert upgraded(other)["norm"] == other["norm"]


@pytest.mark.parametrize(
    "choice",
    [
        *("norm=batch", "norm=layer", "norm=instance", "norm=group", "init=gaussian", "init=xavier"),
        *("init=glorot", "init=kaiming", "init=orthogonal", "init=lsuv", "regularization=none", "optimizer=sgd"),
        "optimizer=adamw",
    ],
)
def test_configurations_from_before_a_key_was_introduced_keep_their_ids(choice: str) -> None:
    composed: dict[str, Any] = compose_config([*SMALL, choice])
    old = before_introductions(composed)
    assert upgraded(old) == composed
    assert identity(composed) == identity(old) == first_identity(old)
    group = choice.partition("=")[0]
    assert old[group].keys() < composed[group].keys()


MOVED = Rules(moved={"train.parts.norms.group": "train.parts.norm.group", "train.parts.crop.crop": "train.parts.augment.crop"})


def test_identity_ignores_a_moved_function() -> None:
    moved = upgraded(CONFIG, MOVED)
    assert moved["norm"]["_target_"] == "train.parts.norms.group"
    assert moved["augment"]["crop"]["_target_"] == "train.parts.crop.crop", "targets are found at any depth"
    for version in range(1, VERSION + 1):
        assert identity(moved, version, MOVED) == identity(CONFIG, version, MOVED) == identity(CONFIG, version)
    assert current_target("train.parts.norm.group", MOVED) == "train.parts.norms.group"
    assert current_target("train.parts.norms.group", MOVED) == "train.parts.norms.group"


def test_upgraded_drops_bookkeeping() -> None:
    assert "sweep" not in upgraded(CONFIG)
    assert "sweep" not in canonical(CONFIG)


def test_arm_id_ignores_seeds_and_tuned_keys() -> None:
    assert arm_id(config_with("seeds.init", 9) | {"seed": 9}) == arm_id(CONFIG)
    assert arm_id(config_with("norm.groups", 9), ["norm.groups"]) == arm_id(CONFIG, ["norm.groups"])
    assert arm_id(config_with("norm.groups", 9), ["norm"]) == arm_id(CONFIG, ["norm"])
    assert arm_id(config_with("norm.groups", 9)) != arm_id(CONFIG)


def test_is_execution_key_knows_the_listed_keys() -> None:
    assert is_execution_key("data.workers")
    assert not is_execution_key("data.root")
