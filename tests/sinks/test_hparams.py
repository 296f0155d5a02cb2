from pathlib import Path

import pytest

from tests.harness import compose_config
from train.sinks.hparams import hparams_row, known_columns
from train.store.identity import arm_id

CONFIG = {
    "seed": 3,
    "seeds": {"init": 3, "order": 3},
    "norm": {"_target_": "train.parts.norm.group", "groups": 4},
    "data": {"shape": [1, 16, 16], "seed": 0},
    "trainer": {"grad_clip": None, "compile": False, "batch_size": 8, "precision": "auto"},
}
CHOICES = {"norm": "group", "init": "kaiming", "experiment": None}


DEFAULTS = {
    "norm.groups": 4.0,
    "data.shape": "[1, 16, 16]",
    "data.seed": 0.0,
    "trainer.compile": False,
    "trainer.batch_size": 8.0,
    "trainer.precision": "auto",
}
"""The settings of `CONFIG` that are not null, without the seeds."""


def test_hparams_row_columns_are_choices_typed_overrides_and_defaults():
    overrides = ["norm=group", "+trainer.batch_size=8", "trainer.compile=false", "trainer.grad_clip=null", "data.shape=[1,16,16]"]
    arm = hparams_row(CONFIG, CHOICES, overrides)
    typed = {"trainer.batch_size": 8.0, "trainer.compile": False, "trainer.grad_clip": "null", "data.shape": "[1, 16, 16]"}
    arm_text = "norm=group data.shape=[1,16,16] trainer.batch_size=8 trainer.compile=false trainer.grad_clip=null"
    assert arm.values == {"norm": "group", "init": "kaiming", **DEFAULTS, **typed, "arm": arm_text}
    assert {name: type(value) for name, value in arm.values.items() if name in typed} == {n: type(v) for n, v in typed.items()}
    assert arm.first == {"arm", "norm", "data.shape", "trainer.batch_size", "trainer.compile"}


def test_hparams_row_shows_the_most_relevant_columns_first():
    overrides = ["trainer.epochs=3", "data=noise", "model.depth=8", "init=kaiming", "norm.groups=2", "optimizer.lr=1"]
    assert hparams_row(CONFIG, CHOICES, overrides).first == {"arm", "init", "model.depth", "norm.groups", "optimizer.lr"}


def test_hparams_row_without_overrides_has_choices_and_defaults():
    arm = hparams_row(CONFIG, CHOICES, [])
    assert arm.values == {"arm": "defaults", "norm": "group", "init": "kaiming", **DEFAULTS}
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


def test_known_columns_are_the_groups_and_settings_of_every_choice():
    columns = known_columns()
    groups = {path.name for path in Path("conf").iterdir() if path.is_dir()} - {"hydra", "experiment", "study"}
    assert groups < columns.keys()
    some = {"norm.groups": 8.0, "norm.momentum": 0.1, "init.std": 0.01, "schedule.peak": 0.3, "augment.rotate.degrees": 15.0}
    assert {key: columns[key] for key in some} == some
    assert columns["trainer.max_steps"] is None, "its type is unknown"
    assert not {
        key for key in columns if key.partition(".")[0] in {"seed", "seeds", "sweep", "report", "checkpoint", "hydra", "defaults"}
    }
    assert not {key for key in columns if key.endswith("_target_")}


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_row_of_a_run_has_no_column_that_the_table_of_another_lacks(norm):
    assert hparams_row(compose_config([f"norm={norm}"]), {"norm": norm}, []).values.keys() <= known_columns().keys()
