"""`train resume=FOLDER` on a folder from somebody else: its files are data, and only what is typed beside it is composed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import SMALL, compose_config, resume_in_process, run_content, train_in_process
from train.errors import UsageError
from train.run.resumed_job import changed, folder_to_resume, read_resumption
from train.store.run import Run, read_run

Train = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = [*SMALL, "schedule=constant"]
LONGER = "trainer.max_steps=4"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that can be extended."""
    return train_in_process(tmp_path_factory.mktemp("original") / "run", RUN).path


@pytest.fixture(scope="module")
def extended(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, extended as its owner would."""
    folder = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(original, folder)
    assert resume_in_process(folder, [LONGER])[1] == "done"
    return folder


@pytest.fixture
def received(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "received")
    return tmp_path / "received"


HARM = {"_target_": "subprocess.call", "_args_": [["touch", "harm"]]}
HOSTILE: Mapping[str, object] = {
    "a group that lies outside": ["experiment=../../../../../../../../../proc/self/cwd/received/more"],
    "a group at another place": ["+norm@hydra.callbacks.x=batch", "hydra.callbacks.x._target_=subprocess.call"],
    "a search path": ["hydra.searchpath=[file://received]", "experiment=more"],
    "flags": ["--config-dir=received", "-m", "experiment=more"],
    "packages to trust": ["trust=[os]", "model._target_=os.getcwd"],
    "another folder": ["resume=/elsewhere", "hydra.run.dir=/elsewhere", "hydra/launcher=more"],
    "an interpolation": ["seed=${oc.env:SECRET}", "+x=${oc.env:SECRET}"],
    "no overrides": ["\x1b[31m", "=", "a=[", "", "~", "${"],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_stored_overrides_are_never_composed(train: Train, extended: Path, received: Path, tmp_path: Path, kind: str) -> None:
    (received / "more.yaml").write_text(f"# @package _global_\nhydra: {{callbacks: {{harm: {HARM}}}}}\n")
    (received / "overrides.yaml").write_text(yaml.safe_dump(HOSTILE[kind]))
    result = train(f"resume={received}", LONGER, SECRET="hunter2")
    assert result.returncode == 0, result.stderr
    assert run_content(received)[1] == run_content(extended)[1]
    assert read_run(received).config == read_run(extended).config
    assert not list(tmp_path.rglob("harm"))
    assert "hunter2" not in result.stdout + result.stderr + contents(received)


def contents(folder: Path) -> str:
    """Return the text of all files of a run."""
    return "".join(path.read_bytes().decode("latin-1") for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "${seed}", "${", "a${oc.decode:1}", "\\${oc.env:SECRET}", "${hydra:job.name}"]
)
def test_stored_text_is_never_an_interpolation(train: Train, received: Path, text: str) -> None:
    replace(received, data={"root": text})
    result = train(f"resume={received}", LONGER, SECRET="hunter2")
    assert (result.returncode, result.stderr) == (0, "")
    assert "hunter2" not in result.stdout + contents(received)
    assert read_run(received).config["data"]["root"] == text


def replace(folder: Path, **changes: Any) -> None:
    """Replace values in the stored configuration; groups are merged."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and isinstance(config.get(key), dict) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "a function outside": ({"model": {"_target_": "os.getcwd"}}, "trust=os"),
    "a function of ours that is no part": ({"data": {"_target_": "train.data.file_hashes.FileHashes"}}, "outside the packages"),
    "a function inside another": ({"norm": {"_target_": "torch.nn.init.torch.load"}}, "outside the packages"),
    "an unknown group": ({"hydra": {"callbacks": {"x": HARM}}}, "hydra: there is no such key"),
    "bookkeeping": ({"trust": ["os"], "model": {"_target_": "os.getcwd"}}, "trust=os"),
    "a wrong type": ({"trainer": {"batch_size": "many"}}, "trainer.batch_size=many"),
    "a list for a group": ({"trainer": [1]}, "trainer is a value"),
    "a number for a part": ({"norm": 5}, "norm=5"),
    "a setting that is none": ({"model": {"harm": 1}}, "model.harm: there is no such key"),
    "a seed that is none": ({"seed": "x"}, "seed"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_stored_configuration_passes_the_schema(received: Path, kind: str) -> None:
    changes, message = WRONG[kind]
    replace(received, **changes)
    before = contents(received)
    with pytest.raises(UsageError) as error:
        resume_in_process(received, [LONGER, "trust=tests"])
    assert message in str(error.value)
    assert contents(received) == before


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("data", "torch.nn.ReLU"),
        ("norm", "torchvision.models.list_models"),
        ("schedule", "torch.nn.ReLU"),
        ("init", "torch.nn.functional.max_pool2d"),
    ],
)
def test_function_in_the_place_of_another_is_one_message(train: Train, received: Path, group: str, target: str) -> None:
    """It may be called, but returns something else, or cannot be called with settings."""
    kept = yaml.safe_load((received / "config.yaml").read_text())[group]
    shared = {
        key: kept[key] for key in ("root", "preprocess", "val_fraction", "train_fraction", "workers", "verify") if key in kept
    }
    config = yaml.safe_load((received / "config.yaml").read_text()) | {group: {"_target_": target, **shared}}
    (received / "config.yaml").write_text(yaml.safe_dump(config))
    result = train(f"resume={received}", LONGER)
    assert (result.returncode in (1, 2), len(result.stderr.splitlines())) == (True, 1), result.stderr
    assert str(received) in result.stderr or group in result.stderr


def test_nothing_is_downloaded_to_a_place_that_the_folder_names(received: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen").mkdir()
    config = yaml.safe_load((received / "config.yaml").read_text())
    keys = ("preprocess", "val_fraction", "train_fraction", "workers", "verify")
    shared = {key: config["data"][key] for key in keys if key in config["data"]}
    target = {"_target_": "train.data.torchvision_sets.cifar10", "root": str(tmp_path / "chosen"), "download": True}
    (received / "config.yaml").write_text(yaml.safe_dump(config | {"data": {**shared, **target}}))
    with pytest.raises(UsageError, match=r"data\.download=false"):
        resume_in_process(received, [LONGER])
    assert not list((tmp_path / "chosen").iterdir())


@pytest.mark.parametrize("kind", ["keys", "a value", "a reason"])
def test_message_on_long_texts_is_short(train: Train, received: Path, kind: str) -> None:
    if kind == "a reason":
        status = json.loads((received / "status.json").read_text()) | {"status": "diverged", "reason": "x" * 1_000_000}
        (received / "status.json").write_text(json.dumps(status))
        replace(received, trainer={"record_every": 1})
    else:
        replace(received, trainer={f"key{i}": i for i in range(20_000)} if kind == "keys" else {"precision": "x" * 900_000})
    result = train(f"resume={received}", LONGER)
    assert result.returncode == 2
    assert len(result.stderr) < 5_000


def stored_run(**model: object) -> Run:
    overrides = ("model=plain", "model.depth=5", "norm=batch", "augment=[flip,rotate]")
    config = compose_config([*SMALL, *overrides])
    choices = {"model": "plain", "norm": "batch", "augment": "['flip', 'rotate']", "data": "noise"}
    return Run(Path("run"), "interrupted", "", "", "", config | model, choices, overrides, {})


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("trainer.epochs=7", "epochs", 7),
        ("++trainer.max_steps=null", "max_steps", None),
        ("trainer.device='cpu'", "device", "cpu"),
        ("trainer.epochs=${oc.env:EPOCHS}", "epochs", "9"),
        ("+trainer.new=[1,a]", "new", [1, "a"]),
    ],
)
def test_typed_values_are_read_as_hydra_reads_them(typed: str, key: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "9")
    run = stored_run()
    content = changed(run, [typed])
    assert content["trainer"][key] == value
    assert {group: node for group, node in content.items() if group != "trainer"} == {
        group: node for group, node in run.config.items() if group != "trainer"
    }


@pytest.mark.parametrize("typed", ["norm=batch", "model=plain", "model.depth=5", "augment=[flip,rotate]", "data=noise"])
def test_the_same_choice_may_be_typed_again(typed: str) -> None:
    assert changed(stored_run(), [typed]) == stored_run().config


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("norm=layer", "norm=layer: this run was made with norm=batch"),
        ("augment=[flip]", r"augment=\[flip\]: this run was made with augment="),
        ("experiment=lecture_init", "this run was made without experiment"),
        ("~norm", "keeps its configuration"),
        ("model@x=plain", "keeps its configuration"),
        ("trainer.epochs=1,2", "keeps its configuration"),
        ("seed.x=1", "seed is a value"),
    ],
)
def test_other_choices_are_refused(typed: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(stored_run(), [typed])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-m"], "without -m"),
        (["--cfg", "job"], "config.yaml"),
        (["hydra.verbose=true"], "Hydra's settings"),
        (["+hydra.callbacks.x._target_=os.system"], "Hydra's settings"),
        (["hydra.run.dir=elsewhere"], "conflicts"),
        (["sweep.dry_run=true"], "Add -m"),
        (["report.pairs=true"], "train-report FOLDER"),
    ],
)
def test_arguments_without_a_place_are_refused(original: Path, typed: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_resumption(str(original), [*typed, f"resume={original}"])


def test_typed_arguments_are_told_apart(original: Path) -> None:
    resumption = read_resumption(
        str(original),
        ["--config-dir", "my=conf", "trust=mine", "trainer.epochs=3", f"hydra.run.dir={original}", "checkpoint.keep=5"],
    )
    assert (resumption.changes, resumption.bookkeeping) == (("trainer.epochs=3",), ("trust=mine", "checkpoint.keep=5"))
    assert resumption.own == ("--config-dir", "my=conf", "trust=mine")
    assert folder_to_resume(["resume=auto"]) is folder_to_resume(["resume=null"]) is folder_to_resume(["norm=batch"]) is None
