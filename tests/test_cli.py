"""The command `train` as a user types it: answers, refusals, run folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import COMMAND, SMALL, only_run
from train import __version__
from train.store.metrics import read_records

Train = Callable[..., "subprocess.CompletedProcess[str]"]

REFUSED = {
    "init=xavir": "train: init=xavir: there is no such choice. Did you mean init=xavier?",
    "optimizer.lrr=1": "Did you mean 'optimizer.lr'?",
    "norm=batch norm.groups=4": (
        "norm.groups: the chosen norm has no such key. It belongs to norm=group, norm=group_ws. The chosen norm has: norm"
    ),
    "trainer.foo=3": "trainer.foo: there is no such key. Did you mean 'trainer.",
    "trainer.epoch=3": "Did you mean 'trainer.epochs'?",
    "inti=xavier": "Did you mean 'init'?",
    "+seeed=3": "train: seeed: there is no such key. Did you mean 'seed'?",
    "+norm.grops=3": "norm.grops: there is no such key.",
    "seed=null": "seed=null: it should be an integer.",
    "norm=group norm.groups=abc": "norm.groups=abc: it should be an integer.",
    "norm=group norm.groups=0": "norm.groups=0: it should be greater than or equal to 1.",
    "regularization.dropout=1.5": "regularization.dropout=1.5: it should be less than 1.",
    "optimizer.lr=.nan": "optimizer.lr",
    "trainer.epochs=-1": "trainer.epochs=-1: it should be greater than or equal to 0.",
    "trainer.device=tpu9": "trainer.device=tpu9",
    "trainer.device=cuda:77": "trainer.device=cuda:77",
    "model.activation=rely": "model.activation=rely: it should be 'relu'",
    "data.val_fraction=1": "data.val_fraction=1",
    "data=image_folder": "data.root",
    "data=image_folder data.root=/nowhere/at/all": "/nowhere/at/all",
    "norm=instance model=mlp": "layer norm1",
    "norm=group norm.groups=7": "norm.groups=7",
    "model.stages=9": "model.stages=9",
    "model=resnet model.depth=21": "model.depth=21",
    "trainer.batch_size=100000": "trainer.batch_size=100000",
    "norm=batch,layer": "--multirun",
    "norm._target_=train.parts.norm.nothing": "norm._target_=train.parts.norm.nothing",
    "init=[gaussian": "init=[gaussian",
    "data.root=/nowhere": "data.root=/nowhere: data=fashion_mini reads no folder. Add data=image_folder",
    "data=noise data.classes=1": "data.classes=1: it should be greater than or equal to 2.",
    "sweep.dry_run=true": "sweep.dry_run=true: this configures a sweep, and the command starts a single run. Add -m",
    "+sweep.foo=1": "+sweep.foo=1: this configures a sweep",
    "report.pairs=true": "report.pairs=true: this configures the report of a sweep, and the command starts a single run. Add -m",
    "resume=auto": "resume=auto: every start has a new folder, so there is never a run to resume. Add hydra.run.dir=FOLDER.",
    "resume=auto hydra.run.dir=r/${now:%S}": "resume=auto: every start has a new folder",
    "augment=[flip,flip]": "augment=[flip,flip]: flip is named more than once, and is applied once. Name it once.",
    "-m resume=auto norm=batch,none": "Add hydra.sweep.dir=FOLDER or sweep.resume=last.",
    "-m augment=[flip_crop,flip],none": "augment=[flip_crop,flip]: flip changes nothing",
    "-m data.root=/nowhere norm=batch,none": "data.root=/nowhere: data=fashion_mini reads no folder.",
    "study=norms resume=auto": "resume=auto: every start has a new folder",
    "norm=null": "norm=null: there is no such choice. Known: batch, ghost, group, group_ws, instance, layer, none, rms.",
    "norm=1": "norm=1: there is no such choice. Known: batch, ghost, group",
    "augment=[flip,null]": "augment=null: there is no such choice. Known: alternating_flip, color, crop",
    "=3": "=3: a key is missing in front of '='.",
    "hydra=null": "hydra=null: set its keys one by one.",
    "optimizer.lr=${nothing}": "optimizer.lr: Interpolation key 'nothing' not found",
    "augment.multi_scale.size=96": "augment=multi_scale has: augment.multi_scale.short_side, augment.multi_scale.crop,",
    "data.root.size=3": "Known: data.preprocess, data.train_fraction, data.val_fraction, data.verify, data.workers.",
    "hydra.job.nam=x": "Did you mean 'hydra.job.name'?",
    "norm=none,batch": "train: norm=none,batch: a single run takes one value. Add -m (--multirun) to train one run",
    "augment=[flip,rotte]": "train: augment=rotte: there is no such choice. Did you mean augment=rotate? "
    "Known: alternating_flip, color, crop,",
    "norm = batch": "train: norm = batch: an override has no spaces. Did you mean norm=batch?",
    "--hlep": "train: --hlep: there is no such flag. Did you mean --help?",
    "--help norm=grup": "train: --help norm=grup: there is no such choice. Known: batch,",
    "data=image_folder data.root=~/no/such/photos": f"data.root={Path.home()}/no/such/photos: there is no such folder",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_input_prints_one_message_and_leaves_nothing(train: Train, tmp_path: Path, arguments: str) -> None:
    result = train(*arguments.split())
    output = result.stderr
    assert result.returncode == 2, output
    assert REFUSED[arguments] in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*")), "a refused command leaves no files behind"


UNREADABLE = {
    "a: 1\n\tb: 2\n": "line 2, column 1: this is not valid YAML (found character '\\t' that cannot start any token). Indent",
    "# caf\xe9\na: 1\n": "this file is not UTF-8 (byte 0xe9",
    "a: 1\na: 2\n": "line 2, column 1: this is not valid YAML (found duplicate key a).",
    "a: ${b\n": "a: no viable alternative at input '${b'",
    "a: &a [*a]\n": "a value contains itself.",
    "defaults: batch\n": "defaults must be a list",
}


@pytest.mark.parametrize("content", UNREADABLE, ids=["tab", "latin-1", "twice", "unclosed", "itself", "defaults"])
def test_yaml_that_cannot_be_read_is_named_with_the_place(train: Train, tmp_path: Path, content: str) -> None:
    (tmp_path / "conf" / "norm").mkdir(parents=True)
    (tmp_path / "conf" / "norm" / "mine.yaml").write_bytes(content.encode("latin-1"))
    result = train("norm=mine", "--config-dir", "conf")
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (2, 1), result.stderr
    assert UNREADABLE[content] in result.stderr
    assert "norm/mine" in result.stderr


def test_flags_may_stand_between_overrides_and_nothing_may_be_chosen(train: Train) -> None:
    result = train("norm=batch", "--cfg", "job", "init=xavier", "experiment=null", "--package", "init", "study=null")
    assert (result.returncode, "train.parts.init.xavier" in result.stdout) == (0, True), result.stderr


def test_home_folder_is_expanded_for_the_folder_of_a_run(train: Train, tmp_path: Path) -> None:
    assert train(*SMALL, "hydra.run.dir='~/a run'", HOME=str(tmp_path / "home")).returncode == 0
    again = train("resume=~/a run", HOME=str(tmp_path / "home"))
    assert (again.returncode, "this run is done" in again.stderr) == (2, True), again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_bad_input_of_the_real_command_is_one_message(real_train: Train, tmp_path: Path) -> None:
    result = real_train("norm=group", "norm.groups=7")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*"))


def test_impossible_layer_is_named_with_its_channels(train: Train) -> None:
    result = train("norm=group", "norm.groups=7")
    assert "layer stage1.norm1" in result.stderr
    assert "24 channels" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "norm=group"], ["--info", "searchpath"]])
def test_flags_that_start_no_run_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    program = "import sys; from train import cli\ntry:\n cli.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], f"train {__version__} (torch "),
        (["--help"], "norm            batch* "),
        (["--help", "norm"], "Batch normalisation (BN,"),
        (["-m", "norm=?", "seed=0,1"], "Batch normalisation (BN,"),
    ],
)
def test_what_is_asked_is_answered_and_starts_no_run(train: Train, tmp_path: Path, arguments: list[str], expected: str) -> None:
    result = train(*arguments)
    assert (result.returncode, result.stderr, expected in result.stdout) == (0, "", True)
    assert not list(tmp_path.rglob("*"))


def test_completion_offers_choices(real_train: Train) -> None:
    result = real_train("-sc", "query=bash", COMP_LINE="train init=xa", COMP_POINT="13")
    assert "init=xavier" in result.stdout


def test_run_writes_a_complete_folder(real_train: Train, tmp_path: Path) -> None:
    result = real_train("init=xavier", "norm=batch", *SMALL, "data.workers=3")
    assert result.returncode == 0, result.stderr
    folder = only_run(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "overrides.yaml", "status.json", "metrics.jsonl", "summary.json", "weights.pt", "train.log"} <= names
    assert len([name for name in names if name.startswith("events.out.tfevents")]) == 1
    assert "init=xavier" in folder.name
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("done", 0)
    assert status["versions"]["torch"]
    summary = json.loads((folder / "summary.json").read_text())
    last = list(read_records(folder / "metrics.jsonl"))[-1]
    assert last.values["accuracy/test"] == summary["test_accuracy"]
    assert "init=xavier" in (folder / "overrides.yaml").read_text()
    assert "noise: 10 classes, 34 train, 14 validation, 16 test images" in result.stdout
    assert "note: data.workers=3: no effect, as data=noise is held in memory." in result.stdout
    for text in ("test accuracy", "parameters", "FLOPs", "tensorboard --logdir", str(folder)):
        assert text in result.stdout


def test_run_dir_with_a_run_is_refused_and_unchanged(train: Train, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    assert train(*SMALL, f"hydra.run.dir={target}").returncode == 0
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    second = train(*SMALL, f"hydra.run.dir={target}")
    assert second.returncode == 2
    assert "already holds a run" in second.stderr
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_simultaneous_runs_get_distinct_folders(real_train: Train, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: real_train(*SMALL), range(2)))
    assert [result.returncode for result in results] == [0] * 2
    folders = list((tmp_path / "outputs").iterdir())
    assert len(folders) == 2
    assert all((folder / "summary.json").exists() for folder in folders)


def test_divergence_has_its_own_status_and_exit_code(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, "norm=none", "optimizer.lr=1e30", "trainer.max_steps=5", "trainer.precision=float32")
    assert result.returncode == 3, result.stderr
    folder = only_run(tmp_path)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged"
    assert "step" in status["reason"]
    rows = list(read_records(folder / "metrics.jsonl"))
    assert any(row.values.get("loss/train") != row.values.get("loss/train") for row in rows), "the NaN itself is recorded"
    assert not any("accuracy/test" in row.values for row in rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_signal_interrupts_the_run_and_saves_its_weights(tmp_path: Path, number: signal.Signals, code: int) -> None:
    arguments = [*SMALL, "trainer.epochs=100000", "trainer.max_steps=null"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([str(COMMAND), *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("interrupted", code)
    assert (only_run(tmp_path) / "weights.pt").exists()


def test_config_dir_adds_a_choice_by_one_function_and_one_yaml(train: Train, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef scale(start: float = 1.0):\n    return lambda channels: nn.Identity()\n"
    )
    (tmp_path / "conf" / "norm").mkdir(parents=True)
    (tmp_path / "conf" / "norm" / "scale.yaml").write_text("_target_: mine.scale\nstart: 2.0\n")
    untrusted = train("--config-dir", "conf", *SMALL, "norm=scale", PYTHONPATH=str(tmp_path))
    assert (untrusted.returncode, "trust=mine" in untrusted.stderr) == (2, True)
    result = train("--config-dir", "conf", *SMALL, "norm=scale", "trust=mine", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    wrong = train("--config-dir", "conf", *SMALL, "norm=scale", "trust=mine", "norm.start=much", PYTHONPATH=str(tmp_path))
    assert "norm.start=much: it should be a number." in wrong.stderr


def test_multirun_writes_a_folder_per_job(train: Train, tmp_path: Path) -> None:
    result = train("-m", *SMALL, "norm=batch,none", "seed=0,1")
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "outputs").iterdir()
    folders = sorted(path.parent for path in sweep.glob("*/status.json"))
    assert len(folders) == 4
    arms = {json.loads((folder / "status.json").read_text())["arm"] for folder in folders}
    assert len(arms) == 2, "an arm is a configuration without its seeds"
    assert all((folder / "summary.json").exists() for folder in folders)


def test_multirun_drops_impossible_combinations_with_a_reason(train: Train, tmp_path: Path) -> None:
    result = train("-m", *SMALL, "norm=group", "norm.groups=4,7")
    assert result.returncode == 0, result.stderr
    assert "dropped: norm.groups=7: layer stage1.norm1" in result.stdout
    (sweep,) = (tmp_path / "outputs").iterdir()
    assert len(list(sweep.glob("*/summary.json"))) == 1
