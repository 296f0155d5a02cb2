"""The commonest slips in a command of `train`: what is answered names what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from train import cli
from train.command import arranged
from train.config_errors import explain
from train.errors import UsageError
from train.slips import check_arguments

SLIPS = {
    "norm=none,batch": "Add -m (--multirun) to train one run for each: train -m norm=none,batch",
    "seed=range(5)": "train -m 'seed=range(5)'",
    "optimizer.lr=0,1": "A decimal point is a dot: optimizer.lr=0.1.",
    "augment=flip,rotate": "To apply all of them to every image: 'augment=[flip,rotate]'. Add -m",
    "seeds=0,1": "seeds: there is no such key. Did you mean 'seed'?",
    "seed=0-4": "-m 'seed=range(0,5)'",
    "seed=[0,1,2]": "-m seed=0,1,2",
    "norm=[none,batch]": "a run has one choice of norm. To train one run for each: -m norm=none,batch",
    "augment=[flip,rotte]": "augment=rotte: there is no such choice. Did you mean augment=rotate? Known: alternating_flip, color",
    "augment=flip+rotate": "Did you mean 'augment=[flip,rotate]'?",
    "augment=(flip,rotate)": "Did you mean 'augment=[flip,rotate]'?",
    "norm": "norm: a choice is missing, as in norm=batch. Known: batch, ",
    "norm = batch": "norm = batch: an override has no spaces. Did you mean norm=batch?",
    "norm= batch": "Did you mean norm=batch?",
    "norm =batch": "Did you mean norm=batch?",
    "-m norm=none, batch": "Did you mean norm=none,batch?",
    "norm=none batch": "Did you mean -m norm=none,batch?",
    "norm batch": "Did you mean norm=batch?",
    "norm:batch": "Did you mean norm=batch?",
    "optimizer.lr 0.1": "Did you mean optimizer.lr=0.1?",
    "optimizer:lr=0.1": "Did you mean optimizer.lr=0.1?",
    "norm==batch": "Did you mean norm=batch?",
    "norm=batch,": "Did you mean norm=batch?",
    "norm=group(8)": "train --help norm explains the choices and their settings.",
    "group": "Did you mean norm=group?",
    "lecture": "Did you mean augment=lecture or study=lecture?",
    "trainer": "trainer: this is a section. Set one of its keys: train --help trainer explains them.",
    "epochs": "epochs: a value is missing, as in trainer.epochs=12.",
    "resume": "resume: the folder of a run is missing, as in resume=FOLDER.",
    "resume=": "resume=: the folder of a run is missing, as in resume=FOLDER.",
    "help": "Did you mean --help?",
    "train norm=batch": "Did you mean: train norm=batch",
    "report outputs": "Did you mean: train-report outputs",
    "dropout=0.5": "dropout: there is no such key. Did you mean 'regularization.dropout' or 'seeds.dropout'?",
    "trainer.lr=0.1": "Did you mean 'optimizer.lr'?",
    "learning_rate=0.1": "Did you mean 'optimizer.lr'",
    "bs=32": "Did you mean 'trainer.batch_size'?",
    "num_workers=4": "Did you mean 'data.workers'?",
    "groups=4": "Did you mean 'norm=group norm.groups'?",
    "norm.group.groups=4": "Did you mean 'norm=group norm.groups'?",
    "NORM=batch": "Did you mean 'norm'?",
    "launcher=slurm": "Did you mean 'hydra/launcher'?",
    "out=here": "Did you mean 'hydra.run.dir' or",
    "data=mnist": "Did you mean data=fashion_mnist? Known: cifar10,",
    "data=CIFAR-10": "Did you mean data=cifar10?",
    "data=./photos": "data=./photos: there is no such choice. Known: cifar10, cifar100, fashion_mini,",
    "model=resnet18": "Did you mean model=torchvision model.name=resnet18?",
    "init=he": "Did you mean init=kaiming?",
    "norm=BatchNorm2d": "Did you mean norm=batch?",
    "schedule=none": "Did you mean schedule=constant?",
    "observe=none": "Did you mean observe=off?",
    "augment=mirror": "Did you mean augment=flip?",
    "+norm=batch": "+norm=batch: every run has a choice of norm already. Replace it: norm=batch",
    "++norm=batch": "++norm=batch: every run has a choice of norm already. Replace it: norm=batch",
    "~norm": "Leave this out: its default is norm=batch.",
    "=": "a key is missing in front of '='.",
    "--hlep": "--hlep: there is no such flag. Did you mean --help?",
    "-v": "Did you mean --version?",
    "--norm batch": "--norm: settings have no dashes in front. Did you mean norm=batch?",
    "--lr=0.1": "Did you mean optimizer.lr=0.1?",
    "--dry-run study=norms": "Did you mean sweep.dry_run=true?",
    "--resume outputs": "Did you mean resume=outputs?",
    "--gpus 1": "--gpus: there is no such flag. Known: --cfg, --config-dir,",
    "--cfg jobb": "--cfg/-c: invalid choice: 'jobb' (choose from",
    "--config-dir nowhere": "--config-dir nowhere: there is no such folder.",
}


def answer(arguments: Sequence[str]) -> str:
    """Return the message for a command, as `train.cli` finds it before a run starts."""
    arguments = arranged(arguments)
    try:
        check_arguments(arguments, cli.config_dir())
    except UsageError as error:
        return str(error)
    cli.register_resolvers()
    GlobalHydra.instance().clear()
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        loader = GlobalHydra.instance().config_loader()
        try:
            loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
        except Exception as error:
            return explain(error, cli.config_dir(), arguments)
    return "nothing is wrong"


@pytest.mark.parametrize("command", SLIPS)
def test_slip_is_answered_with_what_was_meant(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = answer(command.split())
    assert SLIPS[command] in message
    assert "\n" not in message


def test_empty_word_is_named() -> None:
    assert answer(["norm=batch", ""]) == "'': an empty word is no override. Leave it out."


@pytest.mark.parametrize(
    "command",
    ["", "norm=batch seed=3", "augment=[flip,rotate]", "data.shape=[1,16,16]", "~experiment", "--cfg job", "experiment="],
)
def test_right_command_is_no_slip(command: str) -> None:
    check_arguments(arranged(command.split()), cli.config_dir())


def test_own_choices_are_known(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "scaled.yaml").write_text("# Scales by a factor, as in FixUp.\n_target_: mine.scaled\nfactor: 2\n")
    own = ["--config-dir", str(tmp_path)]
    assert ", scaled. train --help norm explains them." in answer([*own, "norm"])
    assert "Did you mean norm.factor=3?" not in answer([*own, "--factor", "3"])
    assert "Did you mean norm=scaled norm.factor=3?" in answer([*own, "--factor", "3"])
