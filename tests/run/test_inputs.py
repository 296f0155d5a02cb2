"""A run records its data and its own code, and resumes only with the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from scripts import catalogue
from tests.harness import SMALL, resume_in_process, train_in_process
from train.errors import UsageError
from train.run.resume import refuse_other_inputs
from train.store.inputs import Inputs, read_data
from train.store.run import read_run

PICTURES = [*catalogue.overrides_of(catalogue.IMAGE_FOLDER), "observe=off", "schedule=constant", "trainer.device=cpu"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_run_of_image_files_records_them_and_resumes_with_the_same_alone(tmp_path: Path) -> None:
    root, moved = tmp_path / "pictures", tmp_path / "moved"
    catalogue.write_images(root)
    folder = train_in_process(tmp_path / "run", [*PICTURES, f"data.root={root}"]).path
    assert read_data(folder)["classes"] == ["a", "b"]
    first = read_run(folder)
    assert first.data == Inputs(read_data(folder)).data_id
    root.rename(moved)
    assert resume_in_process(folder, [f"data.root={moved}", "trainer.max_steps=3"])[1] == "done"
    second = read_run(folder)
    assert (second.data, second.identity != first.identity) == (first.data, True), "the length has changed, the data have not"
    for name in ("a", "b"):
        (moved / "train" / name / "3.png").unlink()
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="the data differ from this run's: train/a: 4 images -> 3; train/b: 4 images -> 3"):
        resume_in_process(folder, ["trainer.max_steps=4"])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files, "the folder is unchanged"


def test_same_images_in_two_places_are_one_experiment(tmp_path: Path) -> None:
    catalogue.write_images(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    runs = [train_in_process(tmp_path / f"run {name}", [*PICTURES, f"data.root={tmp_path / name}"]) for name in ("here", "there")]
    first, second = (read_run(run.path) for run in runs)
    assert (first.identity, first.arm) == (second.identity, second.arm)


def test_resume_refuses_other_code_naming_the_module(tmp_path: Path) -> None:
    folder = train_in_process(tmp_path / "run", [*SMALL, "norm=none", "norm._target_=tests.run.saboteur.norm"]).path
    run = read_run(folder)
    assert run.code is not None
    assert "tests.run.saboteur" in run.code
    status = json.loads((folder / "status.json").read_text())
    status["own_code"]["tests.run.saboteur"] = "source 0123456789ab"
    (folder / "status.json").write_text(json.dumps(status))
    expected = re.escape("the code of its parts differs from this run's: tests.run.saboteur: source 0123456789ab -> source ")
    with pytest.raises(UsageError, match=expected):
        resume_in_process(folder, ["trainer.max_steps=3"])


def test_run_without_a_record_is_left_to_its_first_batch(tmp_path: Path) -> None:
    folder = train_in_process(tmp_path / "run", SMALL).path
    status = json.loads((folder / "status.json").read_text())
    for key in ("data", "own_code"):
        del status[key]
    (folder / "status.json").write_text(json.dumps(status | {"identity_version": 2}))
    (folder / "data.json").unlink()
    run = read_run(folder)
    assert (run.data, run.code, run.data_known) == ("", None, "unknown")
    refuse_other_inputs(run, Inputs({"classes": []}, {"mine": "source 1"}))
