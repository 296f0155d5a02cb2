"""What is typed on the command line without effect is refused or noted; what a file sets never is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from scripts.catalogue import IMAGE_FOLDER, overrides_of, write_images
from tests.harness import SMALL, compose_config, settings_for, train_in_process
from train import cli
from train.errors import UsageError
from train.run.dry_run import check_configs
from train.run.setup import prepare
from train.run.typed import refuse_unused_choices

Train = Callable[..., "subprocess.CompletedProcess[str]"]
HERE = [*SMALL, "trainer.device=cpu"]


def notes_on(typed: list[str], *others: str) -> list[str]:
    """Return the notes on a small run with these overrides, of which the first were typed."""
    return list(prepare(settings_for([*HERE, *others, *typed]), typed).notes)


NOTED = {
    "data.workers=4": "no effect, as data=noise is held in memory.",
    "seeds.augment=3": "no effect, as there is no augmentation.",
    "seeds.split=3": "no effect, as data.val_fraction=0.",
    "trainer.evaluate_every=2": "no effect, as there is no validation split.",
    "trainer.max_steps=100": "no effect, as trainer.epochs=1 ends the run after 6 steps.",
    "observe.layers=stage1.*": "no effect, as no layer is observed.",
    "observe.level=full": "no effect, as no layer is observed.",
    "observe.thresholds.fade=0.5": "no effect, as no train step is observed.",
    "observe.every_step=true": "no effect, as observe.every=0.",
    "optimizer.lr=0.2": "replaced by optimizer.lr=0.1.",
    "norm=none": "replaced by norm=batch.",
    "hydra.launcher.retries=1": "no effect, as this is not a sweep (-m).",
    "hydra.sweep.dir=here": "no effect, as this is not a sweep (-m).",
    "hydra/sweeper=ablation": "no effect, as this is not a sweep (-m).",
}
EFFECTIVE = ["augment=none", "data.val_fraction=0", "optimizer.lr=0.1", "norm=batch", "hydra.run.dir=here", "data.root=null"]


def test_overrides_without_effect_are_noted_if_they_were_typed() -> None:
    settings = settings_for([*HERE, *NOTED, *EFFECTIVE])
    notes = prepare(settings, [*NOTED, *EFFECTIVE]).notes
    assert sorted(notes) == sorted(f"{override}: {reason}" for override, reason in NOTED.items())
    assert prepare(settings, ()).notes == (), "a file may set them"


def test_overrides_with_an_effect_are_not_noted() -> None:
    of_data = ["data.val_fraction=0.5", "seeds.split=3", "seeds.augment=3", "trainer.evaluate_every=2", "trainer.max_steps=2"]
    of_observing = ["observe=basic", "observe.layers=stage1.*", "observe.every_step=false", "observe.thresholds.fade=0.5"]
    assert notes_on([*of_data, *of_observing, "norm=batch", "trainer.precision=float32"]) == []
    assert notes_on(["data.train_fraction=0.5", "seeds.split=3"], "data.val_fraction=0") == []


def test_ghost_norm_whose_parts_are_whole_batches_is_noted() -> None:
    one = "no effect, as a batch of 8 images is one part of norm.size={} or more, which is norm=batch."
    assert notes_on(["norm=ghost"]) == [f"norm=ghost: {one.format(32)}"]
    assert notes_on(["norm=ghost", "norm.size=5"]) == [f"{typed}: {one.format(5)}" for typed in ("norm.size=5", "norm=ghost")]
    assert notes_on(["norm=ghost", "norm.size=4"]) == []


def test_epochs_of_a_stem_that_is_drawn_are_noted() -> None:
    net = ["model=airbench", "model.bias_epochs=2"]
    note = "model.bias_epochs=2: no effect, as the stem is not whitened (model.whiten=false)."
    assert notes_on([*net, "model.whiten=false"]) == [note]
    assert notes_on(net) == []


def test_observing_although_it_is_off_is_noted() -> None:
    assert notes_on(["observe=off", "observe.every=10"]) == ["observe=off: layers are observed, by observe.every=10."]
    assert notes_on(["observe=off", "observe=basic"]) == ["observe=off: replaced by observe=basic."]


def test_typed_epochs_beyond_a_limit_of_steps_are_noted() -> None:
    limit = "trainer.max_steps=2 ends the run earlier; trainer.max_steps=null removes that limit."
    assert notes_on(["trainer.epochs=50"]) == [f"trainer.epochs=50: {limit}"]
    assert notes_on(["trainer.epochs=50", "trainer.max_steps=3"]) == []


def test_override_for_image_files_is_noted_where_something_else_decides(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    folder = [*(line for line in overrides_of(IMAGE_FOLDER) if "val_fraction" not in line), f"data.root={tmp_path}"]
    typed = ["data.val_fraction=0.25", "data.workers=1", "data.short_side=33", "data.size=32", f"data.root={tmp_path}"]
    assert prepare(settings_for([*folder, *typed]), typed).notes == ()
    framed = prepare(settings_for([*folder, *typed, "augment=multi_scale"]), typed).notes
    cut = "no effect, as the first augmentation cuts the images."
    assert framed == (f"data.short_side=33: {cut}", f"data.size=32: {cut}")
    (tmp_path / "train").rename(tmp_path / "val")
    write_images(tmp_path / "again")
    (tmp_path / "again" / "train").rename(tmp_path / "train")
    own = "no effect, as data=image_folder has a validation split of its own."
    assert f"data.val_fraction=0.25: {own}" in prepare(settings_for([*folder, *typed]), typed).notes


def test_typed_root_that_no_data_set_reads_is_refused() -> None:
    settings = settings_for([*HERE, "data.root=/nowhere"])
    with pytest.raises(UsageError, match=r"data\.root=/nowhere: data=noise reads no folder\. Add data=image_folder"):
        prepare(settings, ["data.root=/nowhere"])
    assert prepare(settings, ["data.workers=1"]).settings.data.root == "/nowhere", "a file set it"


def test_check_of_a_sweep_names_what_no_arm_reads() -> None:
    typed = ["data.root=/nowhere", "data.workers=1"]
    (check,) = check_configs(([compose_config([*HERE, *typed])], (), False, typed))
    assert check.problem is None
    assert list(check.unread) == ["data.root=/nowhere"]
    assert list(check.notes) == ["data.workers=1"]


def test_keys_of_the_default_sweeper_are_refused_with_another(train: Train) -> None:
    result = train("-m", "hydra/sweeper=basic", "hydra/launcher=basic", "sweep.design=grid", "norm=batch", *HERE)
    assert "train: sweep.design=grid: only hydra/sweeper=ablation, the default, reads this." in result.stderr
    assert result.returncode == 2


REFUSED_LISTS = {
    "augment=[flip,flip]": "augment=[flip,flip]: flip is named more than once, and is applied once. Name it once.",
    "augment=[flip,crop,flip]": "augment=[flip,crop,flip]: flip is named more than once",
    "augment=[flip_crop,flip]": "augment=[flip_crop,flip]: flip changes nothing, as the others do the same. Leave it out.",
    "+augment=[lecture,color]": "augment=[lecture,color]: color changes nothing",
    "augment=none,[erase,erase]": "augment=[erase,erase]: erase is named more than once",
    "augment=[flip,none]": "augment=[flip,none]: none changes nothing",
    "init=[gaussian,gaussian]": "init=[gaussian,gaussian]: gaussian is named more than once",
    "norm=[none,batch]": "norm=[none,batch]: none changes nothing",
}


@pytest.mark.parametrize("typed", REFUSED_LISTS)
def test_choice_of_a_list_that_changes_nothing_is_refused(typed: str) -> None:
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())), pytest.raises(UsageError) as caught:
        refuse_unused_choices([typed])
    assert str(caught.value).startswith(REFUSED_LISTS[typed])


@pytest.mark.parametrize(
    "typed",
    [
        "augment=[flip,crop]",
        "augment=[flip,flip_crop]",
        "augment=[flip]",
        "augment=flip,crop",
        "augment=[flop,flip]",
        "norm=batch",
    ],
)
def test_list_of_choices_that_all_count_is_not_refused(typed: str) -> None:
    """The order counts, too; a choice that does not exist is for Hydra to refuse."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        refuse_unused_choices([typed, "optimizer.betas=[0.9,0.9]", "sweep.zip=[[a,a]]"])


def test_overrides_that_a_resume_recovers_are_not_typed(train: Train, tmp_path: Path) -> None:
    """An older run, or one whose experiment sets them, resumes although what it stored has no effect."""
    stored = [*HERE, "schedule=constant", "data.root=/nowhere", "data.workers=1"]
    train_in_process(tmp_path / "run", stored)
    typed = train("resume=run", "trainer.max_steps=4", "data.root=/elsewhere")
    assert (typed.returncode, typed.stderr.partition(": data=")[0]) == (2, "train: data.root=/elsewhere")
    resumed = train("resume=run", "trainer.max_steps=4")
    assert resumed.returncode == 0, resumed.stderr
    assert "note:" not in resumed.stdout


def test_experiment_may_set_what_has_no_effect(train: Train, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    lines = ["# @package _global_", "data: {root: /nowhere, workers: 1}", "sweep: {on_error: stop}", "report: {pairs: true}"]
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("\n".join([*lines, "resume: auto", ""]))
    result = train("--config-dir", "conf", "experiment=mine", *HERE)
    assert result.returncode == 0, result.stderr
    assert "note:" not in result.stdout
