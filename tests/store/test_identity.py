"""Ids are stable: introducing a key, changing how a run is executed and moving a function change none."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from tests.harness import SMALL, compose_config
from train.store.identity import (
    RULES,
    VERSION,
    KeyRule,
    Rules,
    arm_id,
    canonical,
    current_target,
    identity,
    is_execution_key,
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


def slow_identity(config: dict[str, Any]) -> str:
    """The identity as commit 03bcfb5 computed it."""
    content = {key: value for key, value in config.items() if key not in ("sweep", "report", "checkpoint", "resume", "trust")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    group, _, name = key.partition(".")
    config[group][name] = value
    return config


def test_identity_of_every_version_is_the_first_ones_at_default_execution_keys() -> None:
    for version in range(1, VERSION + 1):
        assert identity(CONFIG, version) == slow_identity(CONFIG)
        assert identity(compose_config(SMALL), version) == slow_identity(compose_config(SMALL))


@pytest.mark.parametrize("version", [0, VERSION + 1])
def test_identity_refuses_unknown_version(version: int) -> None:
    with pytest.raises(ValueError, match="no version"):
        identity(CONFIG, version)


def test_identity_ignores_execution_keys_from_version_two_on() -> None:
    other = changed("data.workers", 0)
    assert identity(other) == identity(CONFIG)
    assert arm_id(other) == arm_id(CONFIG)
    assert identity(other, 1) == slow_identity(other) != identity(CONFIG, 1)


@pytest.mark.parametrize("choice", ["data=cifar10", "data=svhn", "data=image_folder"])
def test_identity_ignores_how_data_are_fetched_and_checked(choice: str) -> None:
    key = "data.check" if choice == "data=image_folder" else "data.download"
    root = ["data.root=photos"] if choice == "data=image_folder" else []
    yes, no = (compose_config([choice, *root, f"{key}={value}"]) for value in ("true", "false"))
    assert identity(yes) == identity(no)
    assert identity(yes, 1) != identity(no, 1)


def test_identity_keeps_a_key_of_the_same_name_in_another_function() -> None:
    """`check` means something else in a data set of the user's own."""
    one, other = changed("data.check", True), changed("data.check", False)
    assert identity(one) != identity(other)


@pytest.mark.parametrize("key", ["data.root", "norm.groups", "trainer.epochs"])
def test_identity_depends_on_every_other_key(key: str) -> None:
    assert identity(changed(key, 17)) != identity(CONFIG)


NEW_KEY = Rules(introduced=(KeyRule("trainer.cuda_graph", "auto"), KeyRule("norm.affine", True, of="train.parts.norm.group")))


def test_identity_ignores_introduced_key_at_its_default() -> None:
    new = changed("trainer.cuda_graph", "auto")
    for version in range(1, VERSION + 1):
        assert identity(new, version, NEW_KEY) == identity(CONFIG, version)
    assert identity(changed("trainer.cuda_graph", "false"), rules=NEW_KEY) != identity(CONFIG)
    assert identity(changed("norm.affine", True), rules=NEW_KEY) == identity(CONFIG)
    assert identity(changed("norm.affine", False), rules=NEW_KEY) != identity(CONFIG)


def test_identity_ignores_introduced_execution_key_at_any_value() -> None:
    graph = KeyRule("trainer.cuda_graph", "auto")
    rules = Rules(introduced=(graph,), execution=(*RULES.execution, graph))
    for value in ("auto", "true", "false"):
        assert identity(changed("trainer.cuda_graph", value), rules=rules) == identity(CONFIG)


def test_upgraded_fills_in_introduced_keys_where_their_function_has_them() -> None:
    assert upgraded(CONFIG, NEW_KEY)["trainer"] == {"epochs": 3, "cuda_graph": "auto"}
    assert upgraded(CONFIG, NEW_KEY)["norm"]["affine"] is True
    other = changed("norm._target_", "train.parts.norm.batch")
    assert "affine" not in upgraded(other, NEW_KEY)["norm"]
    assert upgraded(changed("trainer.cuda_graph", "false"), NEW_KEY)["trainer"]["cuda_graph"] == "false"
    assert "cuda_graph" not in CONFIG["trainer"], "the argument stays as it is"


MOVED = Rules(moved={"train.parts.norms.group": "train.parts.norm.group", "train.parts.crop.crop": "train.parts.augment.crop"})


def test_identity_survives_a_function_that_moves() -> None:
    new = upgraded(CONFIG, MOVED)
    assert new["norm"]["_target_"] == "train.parts.norms.group"
    assert new["augment"]["crop"]["_target_"] == "train.parts.crop.crop", "targets lie at any depth"
    for version in range(1, VERSION + 1):
        assert identity(new, version, MOVED) == identity(CONFIG, version, MOVED) == identity(CONFIG, version)
    assert current_target("train.parts.norm.group", MOVED) == "train.parts.norms.group"
    assert current_target("train.parts.norms.group", MOVED) == "train.parts.norms.group"


def test_upgraded_drops_bookkeeping() -> None:
    assert "sweep" not in upgraded(CONFIG)
    assert "sweep" not in canonical(CONFIG)


def test_arm_id_ignores_seeds_and_tuned_keys() -> None:
    assert arm_id(changed("seeds.init", 9) | {"seed": 9}) == arm_id(CONFIG)
    assert arm_id(changed("norm.groups", 9), ["norm.groups"]) == arm_id(CONFIG, ["norm.groups"])
    assert arm_id(changed("norm.groups", 9), ["norm"]) == arm_id(CONFIG, ["norm"])
    assert arm_id(changed("norm.groups", 9)) != arm_id(CONFIG)


def test_is_execution_key_names_the_listed_ones() -> None:
    assert is_execution_key("data.workers")
    assert not is_execution_key("data.root")
