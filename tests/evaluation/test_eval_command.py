"""The command `train-eval`: what it shows and writes, and its messages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scripts.catalogue import IMAGE_FOLDER, overrides_of, write_images
from tests.evaluation.conftest import CPU, Outcome
from tests.harness import SMALL, train_in_process
from train.evaluation.arguments import read_arguments
from train.store.run import find_runs

TrainEval = Callable[..., Outcome]
FIGURES = {f"{name}.{suffix}" for name in ("confusion", "reliability", "mistakes") for suffix in ("png", "svg")}


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_evaluation_is_shown_and_written(copy: Path, train_eval: TrainEval) -> None:
    result = train_eval(copy)
    assert result.code == 0
    assert "equal to the run's own  yes, to the bit" in result.out
    assert "95 % interval" in result.out
    assert "15 bins" in result.out
    out = copy / "evaluation"
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "evaluation.md", *FIGURES}
    content, summary = json.loads((out / "evaluation.json").read_text()), json.loads((copy / "summary.json").read_text())
    assert (content["accuracy"], content["loss"]) == (summary["test_accuracy"], summary["test_loss"])
    assert content["equal_to_run"] is True
    assert [row["correct"] for row in content["classes"]] == [content["confusion"][i][i] for i in range(10)]
    assert sum(map(sum, content["confusion"])) == sum(part["images"] for part in content["calibration"]["bins"]) == 16
    losses = [mistake["true_probability"] for mistake in content["mistakes"]]
    assert losses == sorted(losses)
    assert list(find_runs([copy.parent])) == [copy]
    page = (out / "evaluation.md").read_text()
    assert all(f"]({name}.svg)" in page for name in ("confusion", "reliability", "mistakes"))


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of two runs; the second run of the second arm was interrupted."""
    root = tmp_path_factory.mktemp("arms")
    for norm in ("batch", "none"):
        for seed in (0, 1):
            train_in_process(root / f"{norm}-{seed}", [*SMALL, *CPU, f"norm={norm}", f"seed={seed}", "data.val_fraction=0"])
    status = root / "none-1" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"status": "interrupted"}))
    return root


def test_runs_of_an_arm_have_a_mean(arms: Path, tmp_path: Path, train_eval: TrainEval) -> None:
    root = Path(shutil.copytree(arms, tmp_path / "arms"))
    (root / "failed").mkdir()
    shutil.copy(root / "none-1" / "config.yaml", root / "failed")
    shutil.copy(root / "none-1" / "overrides.yaml", root / "failed")
    (root / "failed" / "status.json").write_text('{"status": "failed", "reason": "x"}')
    result = train_eval(root)
    assert result.code == 0, result.err
    assert "left out" in result.out
    assert "norm=batch" in result.out
    assert "trainer.batch_size" not in result.out
    assert "weights.pt" in result.out
    content = json.loads((root / "evaluation" / "evaluation.json").read_text())
    assert [arm["runs"] for arm in content["arms"]] == [["batch-0", "batch-1"], ["none-0"]]
    assert content["arms"][1]["not_in_the_mean"] == ["none-1"]
    single = [json.loads((root / f"batch-{seed}" / "evaluation" / "evaluation.json").read_text()) for seed in (0, 1)]
    first, second = (item["accuracy"] for item in single)
    assert content["arms"][0]["accuracy"]["mean"] == pytest.approx((first + second) / 2)
    assert content["arms"][0]["accuracy"]["sd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert content["arms"][1]["accuracy"]["sd"] == "NaN"
    by_class = [row["accuracy"] for row in single[0]["classes"] if row["images"]]
    assert len(content["arms"][0]["classes"]) == len(by_class)
    assert "failed" in (root / "evaluation" / "evaluation.md").read_text()


def test_named_runs_are_compared_with_output(arms: Path, tmp_path: Path, train_eval: TrainEval) -> None:
    root = Path(shutil.copytree(arms, tmp_path / "arms"))
    result = train_eval(root / "batch-0", root / "batch-1", root / "batch-0")
    assert "--output" in result.out
    assert result.out.count("batch-0:") == 1
    out = tmp_path / "a" / "out"
    assert train_eval(root / "batch-0", root / "batch-1", "--output", out, "data.test_size=3").code == 0
    assert {path.name for path in out.iterdir()} == {"batch-0", "batch-1", "evaluation.json", "evaluation.md"}
    content = json.loads((out / "batch-1" / "evaluation.json").read_text())
    assert (content["images"], content["equal_to_run"]) == (3, None)
    assert json.loads((root / "batch-1" / "evaluation" / "evaluation.json").read_text())["images"] == 16


REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "nothing": ([], "required"),
    "no folder": (["nowhere"], "nowhere"),
    "no run": (["."], "no run"),
    "an override first": (["data.root=x"], "name the folder of a run"),
    "another key": (["RUN", "model.width=3"], "model.width=3"),
    "another key of the trainer": (["RUN", "trainer.epochs=3"], "trainer.epochs=3"),
    "a preprocessing of its own": (["RUN", "data.preprocess=none"], "data.preprocess=none"),
    "no such key": (["RUN", "data.nothing=3"], "data.nothing"),
    "no such choice": (["RUN", "data=nothing"], "nothing"),
    "two choices": (["RUN", "data=noise", "data=cifar10"], "data=cifar10"),
    "several values": (["RUN", "data.test_size=1,2"], "one value"),
    "a deleted key": (["RUN", "~data.root=x"], "data.root"),
    "a bad value": (["RUN", "data.test_size=-1"], "data.test_size"),
    "another type": (["RUN", "data.test_size=x"], "data.test_size"),
    "no device": (["RUN", "trainer.device=cuda:9"], "trainer.device"),
    "no precision": (["RUN", "trainer.precision=float8"], "trainer.precision"),
    "no grammar": (["RUN", "data.root=[a"], "data.root"),
    "another split": (["RUN", "--split", "train"], "--split"),
    "no root": (["RUN", "data=image_folder", "data.root=nowhere"], "nowhere"),
    "a root in vain": (["RUN", "data.root=."], "data.root"),
    "a root without a copy": (["RUN", "data=fashion_mnist", "data.root=."], "data=image_folder data.size=28"),
    "other classes": (["RUN", "data.classes=12"], "'10', '11'"),
    "another shape": (["RUN", "data.shape=[1,8,8]"], "1x8x8"),
    "no validation": (["RUN", "--split", "val", "data.val_fraction=0"], "--split val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_message(
    case: str, trained: Path, tmp_path: Path, train_eval: TrainEval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, text = REFUSED[case]
    before = sorted(trained.iterdir())
    result = train_eval(*(str(trained) if argument == "RUN" else argument for argument in arguments))
    assert result.code == 2
    assert text in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    assert sorted(trained.iterdir()) == before


def test_unwritable_output_is_one_message(trained: Path, tmp_path: Path, train_eval: TrainEval) -> None:
    (tmp_path / "file").write_text("")
    result = train_eval(trained, "--output", tmp_path / "file")
    assert result.code == 2
    assert "--output" in result.err


def test_link_in_the_place_of_the_results_is_not_followed(copy: Path, tmp_path: Path, train_eval: TrainEval) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(copy / "evaluation", ignore_errors=True)
    (copy / "evaluation").symlink_to(tmp_path / "elsewhere")
    result = train_eval(copy)
    assert result.code == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_texts_of_a_folder_are_shown_and_not_obeyed(copy: Path, train_eval: TrainEval) -> None:
    data = json.loads((copy / "data.json").read_text())
    names = ["\x1b[2J", "[red]x", "| a |", "<b>", *data["classes"][4:]]
    (copy / "data.json").write_text(json.dumps(data | {"classes": names}))
    result = train_eval(copy, "data=noise")
    assert result.code == 2  # its own data have other classes now
    assert "\x1b" not in result.err


def test_folder_called_like_an_override_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data=noise,seed=0").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = read_arguments(["data=noise,seed=0", "data=cifar10", "trust=[a,b]", "trainer.device=cpu", "data.root=x"])
    assert asked.folders == (Path("data=noise,seed=0"),)
    assert (asked.choice, asked.trust, asked.overrides) == ("data=cifar10", ("a", "b"), ("trainer.device=cpu", "data.root=x"))


def test_reading_of_image_files_is_shown_and_they_are_listed_once(
    tmp_path: Path, train_eval: TrainEval, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line comes after seconds of work, of which there are none here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    folder = [*overrides_of(IMAGE_FOLDER), *CPU, f"data.root={tmp_path / 'images'}", "observe=off"]
    for seed in (0, 1):
        train_in_process(tmp_path / "runs" / f"{seed}", [*folder, f"seed={seed}"])
    monkeypatch.setattr("train.sinks.loading.LINE_AFTER_S", 0.0)
    monkeypatch.setattr("train.sinks.loading.LINE_EVERY_S", 0.0)
    result = train_eval(tmp_path / "runs")
    assert result.code == 0
    assert result.out.count("data: evaluating 8 of 8 files (100 %)") == 2
    assert result.out.count("data: checking 16 of 16 files (100 %)") == 2
    assert result.out.count("data: listing") == 4, "a line for each class of the two splits"
    assert "data: hashing" in train_eval(tmp_path / "runs" / "0", "data.verify=true").out
    assert "data: caching (uint8) 8 of 8 files (100 %)" in train_eval(tmp_path / "runs" / "0", "data.cache=uint8").out
