import pytest

from train.sinks.hparams import hparams_row
from train.store.identity import arm_id

CONFIG = {
    "seed": 3,
    "seeds": {"init": 3, "order": 3},
    "norm": {"_target_": "train.parts.norm.group", "groups": 4},
    "data": {"shape": [1, 16, 16], "seed": 0},
    "trainer": {"grad_clip": None, "compile": False, "batch_size": 8, "precision": "auto"},
}
CHOICES = {"norm": "group", "init": "kaiming", "experiment": None}


def test_columns_are_the_choices_and_what_was_set_with_the_types_of_the_config():
    overrides = ["norm=group", "+trainer.batch_size=8", "trainer.compile=false", "trainer.grad_clip=null", "data.shape=[1,16,16]"]
    arm = hparams_row(CONFIG, CHOICES, overrides)
    typed = {"trainer.batch_size": 8.0, "trainer.compile": False, "trainer.grad_clip": "null", "data.shape": "[1, 16, 16]"}
    words = "norm=group data.shape=[1,16,16] trainer.batch_size=8 trainer.compile=false trainer.grad_clip=null"
    assert arm.values == {"norm": "group", "init": "kaiming", **typed, "arm": words}
    assert {name: type(value) for name, value in arm.values.items() if name in typed} == {n: type(v) for n, v in typed.items()}
    assert arm.first == {"arm", "norm", "data.shape", "trainer.batch_size", "trainer.compile"}


def test_the_five_columns_that_are_shown_are_the_arm_and_what_it_is_most_likely_about():
    overrides = ["trainer.epochs=3", "data=noise", "model.depth=8", "init=kaiming", "norm.groups=2", "optimizer.lr=1"]
    assert hparams_row(CONFIG, CHOICES, overrides).first == {"arm", "init", "model.depth", "norm.groups", "optimizer.lr"}


def test_nothing_set_leaves_the_choices():
    arm = hparams_row(CONFIG, CHOICES, [])
    assert arm.values == {"arm": "defaults", "norm": "group", "init": "kaiming"}
    assert arm.first == {"arm"}


@pytest.mark.parametrize("override", ["seed=3", "seeds.init=3", "+seed=3", "seeds={init:3}"])
def test_seeds_are_no_column(override):
    assert hparams_row(CONFIG, CHOICES, [override]) == hparams_row(CONFIG, CHOICES, [])


def test_the_seed_of_the_data_is_one():
    assert hparams_row(CONFIG, CHOICES, ["data.seed=0"]).values["data.seed"] == 0.0


def test_a_key_that_was_taken_away_is_shown_as_typed():
    assert hparams_row(CONFIG, CHOICES, ["~trainer.gone=1", "~trainer.other"]).values["trainer.gone"] == "1"


def test_runs_are_of_one_arm_exactly_when_only_their_seeds_differ():
    same = arm_id(CONFIG | {"seed": 0, "seeds": {"init": 9}})
    assert same == arm_id(dict(reversed(CONFIG.items()))) == hparams_row(CONFIG, {}, ["seed=3"]).id
    assert len({same, arm_id(CONFIG | {"norm": {}}), arm_id(CONFIG | {"data": {"seed": 1}})}) == 3
