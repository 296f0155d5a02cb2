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


def test_hparams_row_columns_are_choices_and_typed_overrides():
    overrides = ["norm=group", "+trainer.batch_size=8", "trainer.compile=false", "trainer.grad_clip=null", "data.shape=[1,16,16]"]
    arm = hparams_row(CONFIG, CHOICES, overrides)
    typed = {"trainer.batch_size": 8.0, "trainer.compile": False, "trainer.grad_clip": "null", "data.shape": "[1, 16, 16]"}
    arm_text = "norm=group data.shape=[1,16,16] trainer.batch_size=8 trainer.compile=false trainer.grad_clip=null"
    assert arm.values == {"norm": "group", "init": "kaiming", **typed, "arm": arm_text}
    assert {name: type(value) for name, value in arm.values.items() if name in typed} == {n: type(v) for n, v in typed.items()}
    assert arm.first == {"arm", "norm", "data.shape", "trainer.batch_size", "trainer.compile"}


def test_hparams_row_shows_the_most_relevant_columns_first():
    overrides = ["trainer.epochs=3", "data=noise", "model.depth=8", "init=kaiming", "norm.groups=2", "optimizer.lr=1"]
    assert hparams_row(CONFIG, CHOICES, overrides).first == {"arm", "init", "model.depth", "norm.groups", "optimizer.lr"}


def test_hparams_row_without_overrides_has_only_choices():
    arm = hparams_row(CONFIG, CHOICES, [])
    assert arm.values == {"arm": "defaults", "norm": "group", "init": "kaiming"}
    assert arm.first == {"arm"}


@pytest.mark.parametrize("override", ["seed=3", "seeds.init=3", "+seed=3", "seeds={init:3}"])
def test_hparams_row_ignores_seeds(override):
    assert hparams_row(CONFIG, CHOICES, [override]) == hparams_row(CONFIG, CHOICES, [])


def test_hparams_row_keeps_the_data_seed():
    assert hparams_row(CONFIG, CHOICES, ["data.seed=0"]).values["data.seed"] == 0.0


def test_hparams_row_keeps_deleted_keys_as_typed():
    assert hparams_row(CONFIG, CHOICES, ["~trainer.gone=1", "~trainer.other"]).values["trainer.gone"] == "1"


def test_arm_id_is_equal_exactly_if_only_seeds_differ():
    same = arm_id(CONFIG | {"seed": 0, "seeds": {"init": 9}})
    assert same == arm_id(dict(reversed(CONFIG.items()))) == hparams_row(CONFIG, {}, ["seed=3"]).id
    assert len({same, arm_id(CONFIG | {"norm": {}}), arm_id(CONFIG | {"data": {"seed": 1}})}) == 3
