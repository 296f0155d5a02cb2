"""`train.load` gives what a run knows from its folder alone, and nothing stored there is executed."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train
from tests.evaluation.conftest import CPU
from tests.harness import SMALL, train_in_process
from train.data.noise import noise
from train.errors import RunError, UsageError
from train.store.metrics import read_records

STORED = Path(__file__).resolve().parents[1] / "stored"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_loaded_run_has_what_is_in_its_files(trained: Path) -> None:
    run = train.load(str(trained))
    assert run.state == "done"
    assert run.config["data"]["test_size"] == 16
    assert run.summary == json.loads((trained / "summary.json").read_text())
    assert run.status["input_shape"] == [1, 16, 16]
    assert run.data.class_names == tuple("0123456789")
    assert sum(run.data.images["test"]) == 16


def test_records_are_columns(trained: Path) -> None:
    records = train.load(trained).records
    for record in read_records(trained / "metrics.jsonl"):
        for tag, value in record.values.items():
            (place,) = np.flatnonzero(records[tag].step == record.step)
            columns = records[tag]
            assert (columns.epoch[place], columns.time_s[place], columns.value[place]) == (record.epoch, record.time_s, value)
    assert records["loss/train"].step.dtype == np.int64


def test_later_row_of_a_step_counts(copy: Path) -> None:
    row = {"step": 1, "epoch": 0.5, "time_s": 9.0, "values": {"lr": 0.25, "loss/val": "NaN"}}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(row | {"values": {"lr": 0.5}}) + "\n" + '{"step": 3, "torn')
    records = train.load(copy).records
    assert records["lr"].step.tolist() == [1, 2]
    assert records["lr"].value[0] == 0.5
    assert math.isnan(records["loss/val"].value[0])


def test_numbers_that_are_no_numbers_are_floats(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"test_loss": "Infinity", "val_loss": "NaN"}))
    found = train.load(copy).summary
    assert found["test_loss"] == math.inf
    assert math.isnan(found["val_loss"])


def test_model_has_the_weights_and_the_accuracy_of_the_run(trained: Path) -> None:
    run = train.load(trained)
    model = run.model()
    weights = torch.load(trained / "weights.pt", weights_only=True)
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    assert not model.training
    settings = {key: run.config["data"][key] for key in ("shape", "classes", "train_size", "test_size", "seed")}
    test = noise(**settings).load().test
    with torch.no_grad():
        logits = model(run.preprocess()(test.images))  # pyright: ignore[reportAttributeAccessIssue]
    right = (logits.argmax(1) == test.labels).float().mean().item()
    assert abs(right - run.summary["test_accuracy"]) <= 1 / 16  # in another precision


def test_loading_the_model_draws_no_random_number(trained: Path) -> None:
    before = torch.get_rng_state()
    train.load(trained).model()
    assert torch.get_rng_state().equal(before)


def test_model_needs_no_data(tmp_path: Path) -> None:
    """Its images may lie on another machine."""
    from scripts.catalogue import IMAGE_FOLDER, overrides_of, write_images

    write_images(tmp_path / "images")
    train_in_process(tmp_path / "run", [*overrides_of(IMAGE_FOLDER), *CPU, f"data.root={tmp_path / 'images'}", "observe=off"])
    shutil.rmtree(tmp_path / "images")
    assert train.load(tmp_path / "run").model()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert train.load(tmp_path / "run").data.class_names == ("a", "b")


def test_old_run_without_a_recorded_shape_is_loaded_by_its_data() -> None:
    run = train.load(STORED / "run")
    assert "input_shape" not in run.status
    assert run.data.class_names == ()
    assert run.model()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_own_parts_are_called_where_they_are_trusted(tmp_path: Path) -> None:
    own = ["norm=none", "norm._target_=tests.evaluation.parts.scaling"]
    train_in_process(tmp_path / "run", [*SMALL, *CPU, *own])
    assert train.load(tmp_path / "run", trust="tests").model()(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    assert train.load(tmp_path / "run", trust=["tests"]).model()
    with pytest.raises(UsageError, match="trust=tests"):
        train.load(tmp_path / "run").model()


def test_names_of_the_package() -> None:
    assert {"load", "__version__"} <= set(dir(train))
    with pytest.raises(AttributeError, match="nothing"):
        train.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


class Shell:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def compressed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()


WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], bytes]] = {
    "empty": lambda _: b"",
    "no archive": lambda _: b"x" * 100,
    "pickle": lambda _: pickle.dumps(Shell()),
    "code": lambda _: saved(Shell()),
    "code beside weights": lambda weights: saved(weights | {"more": Shell()}),
    "compressed": lambda _: compressed(saved({"a": torch.zeros(1000, 1000)})),
    "a list": lambda _: saved([torch.zeros(1)]),
    "a number": lambda weights: saved(weights | {next(iter(weights)): 5}),
    "keys that are no text": lambda weights: saved(dict(enumerate(weights.values()))),
    "too few": lambda weights: saved(dict([*weights.items()][1:])),
    "too many": lambda weights: saved(weights | {"more": torch.zeros(1)}),
    "another shape": lambda weights: saved({name: value[..., None] for name, value in weights.items()}),
    "sparse": lambda weights: saved({name: value.to_sparse() for name, value in weights.items()}),
    "expanded": lambda weights: saved({name: torch.zeros(1).expand(10**6, 10**6) for name in weights}),
    "on no device": lambda weights: saved({name: value.to("meta") for name, value in weights.items()}),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_strange_weights_are_one_message(case: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    weights = torch.load(copy / "weights.pt", weights_only=True)
    (copy / "weights.pt").write_bytes(WEIGHTS[case](weights))
    with pytest.raises(UsageError, match=r"weights\.pt") as caught:
        train.load(copy).model()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (copy / "executed").exists()


def config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "config.yaml"
        content = yaml.safe_load(file.read_text())
        for key, value in changes.items():
            group, _, name = key.partition("__")
            content[group] = {**content[group], name: value} if name else value
        file.write_text(yaml.safe_dump(content))

    return change


def status(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "status.json").write_text(
        json.dumps(json.loads((folder / "status.json").read_text()) | changes)
    )


def linked(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).symlink_to(target))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "weights are a link": linked("weights.pt", "/dev/zero"),
    "no weights": lambda folder: (folder / "weights.pt").unlink(),
    "a wide model": config(model__width=10**7),
    "a foreign function": config(model___target_="os.system"),
    "a hidden function": config(model___target_="torch.nn.os.system"),
    "another function": config(model___target_="torch.nn.Linear"),
    "a function that raises": config(norm___target_="torch.nn.functional.conv2d"),
    "an unknown key": config(model__nothing=1),
    "an interpolation": config(model__width="${oc.env:HOME}"),
    "no model": config(model=None),
    "no seeds": config(seeds={}),
    "a shape of two numbers": lambda folder: (status(input_shape=[1, 16])(folder), config(data__shape=[1, 16])(folder)),
    "a shape that does not fit": lambda folder: status(input_shape=[3, 16, 16])(folder),
    "a large shape": lambda folder: (
        config(model={"_target_": "train.parts.model.mlp", "activation": "relu", "depth": 1, "width": 8})(folder),
        status(input_shape=[1, 9**9, 9**9])(folder),
    ),
    "a shape that is none": status(input_shape=["x"]),
    "other classes": lambda folder: (folder / "data.json").write_text('{"classes": ["a", "b"], "splits": {}}'),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_strange_folder_is_one_message(case: str, copy: Path) -> None:
    FOLDERS[case](copy)
    with pytest.raises(UsageError) as caught:
        train.load(copy).model()
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strange_records_are_one_message(copy: Path) -> None:
    (copy / "metrics.jsonl").write_text('{"step": -1}\n')
    with pytest.raises((UsageError, RunError), match=r"line 1|metrics"):
        _ = train.load(copy).records


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_records_that_are_no_file_are_one_message(kind: str, copy: Path) -> None:
    metrics = copy / "metrics.jsonl"
    metrics.rename(copy / "elsewhere")
    make = {"pipe": lambda: os.mkfifo(metrics), "link": lambda: metrics.symlink_to("elsewhere"), "folder": metrics.mkdir}
    make[kind]()
    with pytest.raises(UsageError, match=r"records cannot be read \(metrics\.jsonl is "):
        _ = train.load(copy).records


@pytest.mark.parametrize("name", ["", "nothing here"])
def test_folder_without_a_run_is_one_message(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        train.load(tmp_path / name)


FACTS: list[object] = [
    None,
    {},
    {"kind": "x", "mean": [0], "std": [1]},
    {"kind": "none", "mean": ["0"], "std": [1]},
    {"kind": "none", "mean": [0.0], "std": [0.0]},
    {"kind": "none", "mean": [0.0], "std": [1.0, 1.0]},
    {"kind": "none", "mean": [math.inf], "std": [1.0]},
]


@pytest.mark.parametrize("facts", FACTS)
def test_unknown_preprocessing_is_one_message(facts: object, copy: Path) -> None:
    status(preprocess=facts)(copy)
    with pytest.raises(UsageError, match="pre-processing"):
        train.load(copy).preprocess()
