"""An evaluation gives the numbers of the run's own, to the bit, whatever was trained and how."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from scripts.catalogue import IMAGE_FOLDER, overrides_of, write_images
from tests.conftest import Train
from tests.evaluation.conftest import CPU
from tests.harness import SMALL, train_in_process
from train.errors import UsageError
from train.evaluation.evaluate import Evaluation, Request, evaluate_run
from train.store.run import read_run

VARIANTS = {
    "batch, bfloat16": ["trainer.precision=bfloat16"],
    "layer, float32": ["norm=layer", "trainer.precision=float32"],
    "group, resnet": ["model=resnet", "model.depth=8", "norm=group", "trainer.batch_size=7"],
    "no norm, plain, contiguous": ["model=plain", "model.depth=5", "norm=none", "trainer.memory_format=contiguous"],
    "mlp, float16": ["model=mlp", "trainer.precision=float16", "data.preprocess=standardize"],
    "dropout, smoothing": ["regularization=dropout", "regularization.label_smoothing=0.1", "augment=color"],
    "own part": ["norm=none", "norm._target_=tests.evaluation.parts.scaling"],
    "a share of the training images": ["data.train_fraction=0.5", "data.preprocess=standardize", "norm=none"],
    "many channels": ["data.shape=[20,4,4]", "data.preprocess=standardize", "model=mlp"],
}


def evaluated(folder: Path, **request: object) -> Evaluation:
    return evaluate_run(read_run(folder), replace(Request(trust=("tests",)), **request))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_numbers_are_those_of_the_run_to_the_bit(overrides: list[str], tmp_path: Path) -> None:
    train_in_process(tmp_path / "run", [*SMALL, *CPU, *overrides])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for split in ("test", "val"):
        found = evaluated(tmp_path / "run", split=split)
        assert (found.score.accuracy, found.score.loss) == (summary[f"{split}_accuracy"], summary[f"{split}_loss"])
        assert found.equality.equal is True
    found = evaluated(tmp_path / "run")
    assert [score.correct for score in found.classes] == summary["test_correct_by_class"]
    assert sum(summary["test_correct_by_class"]) == round(summary["test_accuracy"] * summary["test_examples"])


def test_other_process_gives_the_same_numbers(train_in: Train, tmp_path: Path) -> None:
    assert train_in(tmp_path, *SMALL, *CPU, "hydra.run.dir=run").returncode == 0
    assert evaluated(tmp_path / "run").equality.equal is True


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_numbers_on_a_gpu_are_those_of_the_run(precision: str, tmp_path: Path) -> None:
    train_in_process(tmp_path / "run", [*SMALL, "trainer.device=cuda", f"trainer.precision={precision}"])
    assert evaluated(tmp_path / "run").equality.equal is True


def test_other_numbers_are_told_with_what_differs(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    file = folder / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test_loss": 1.25}))
    status = folder / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"device": "another machine"}))
    found = evaluated(folder)
    assert found.equality.equal is False
    assert "1.25" in found.equality.reason
    assert "another machine" in found.equality.reason


def test_other_precision_gives_other_numbers(trained: Path) -> None:
    precision = evaluated(trained).precision
    other = "float32" if precision == "bfloat16" else "bfloat16"
    found = evaluated(trained, overrides=(f"trainer.precision={other}",))
    assert found.precision == other
    assert found.equality.equal is False
    assert f"precision: {precision} -> {other}" in found.equality.reason


def test_other_batch_size_may_give_other_numbers(trained: Path) -> None:
    found = evaluated(trained, overrides=("trainer.batch_size=1",))
    assert found.batch_size == 1
    assert found.equality.equal or "trainer.batch_size: 8 -> 1" in found.equality.reason


def test_precision_and_threads_are_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    """Another machine would choose others for `auto`."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    status = folder / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"precision": "float16", "threads": 2}))
    found = evaluated(folder)
    assert found.precision == "float16"
    assert "2 threads" in found.device


def write_folders(root: Path, images: Path, names: dict[str, str]) -> Path:
    """Copy class folders to other places: place -> folder below `images`."""
    for place, source in names.items():
        shutil.copytree(images / source, root / place)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images in folders, and a run on them."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "images")
    train_in_process(root / "run", [*overrides_of(IMAGE_FOLDER), *CPU, f"data.root={root / 'images'}", "observe=off"])
    return root / "images", root / "run"


def test_image_files_give_the_numbers_of_the_run(photos: tuple[Path, Path]) -> None:
    found = evaluated(photos[1])
    assert found.equality.equal is True
    assert all(mistake.file.startswith(str(photos[0])) for mistake in found.mistakes)
    assert all(mistake.picture.shape == (3, 32, 32) for mistake in found.mistakes)


LAYOUTS: dict[str, dict[str, str]] = {
    "moved": {"": ""},
    "a test split alone": {"test": "val"},
    "a validation split alone": {"val": "val"},
    "class folders": {"a": "val/a", "b": "val/b"},
    "one class": {"b": "val/b"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_images_lie_in_folders_of_their_classes(layout: str, photos: tuple[Path, Path], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "new", photos[0], LAYOUTS[layout])
    own, found = evaluated(photos[1]), evaluated(photos[1], overrides=(f"data.root={root}",))
    by_name = {score.name: score for score in own.classes}
    assert all(score in (by_name[score.name], replace(score, images=0, correct=0)) or score.images for score in found.classes)
    assert [score.correct for score in found.classes if score.images] == [
        by_name[score.name].correct for score in found.classes if score.images
    ]
    assert found.equality.equal is (True if layout == "moved" else None)
    assert bool(found.notes) is (layout == "one class")


@pytest.mark.parametrize("kind", ["uint8", "jpeg"])
def test_images_of_a_run_on_a_cache_are_cached_as_its_own(
    kind: str, photos: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = [f"data.root={photos[0]}", f"data.cache={kind}", "observe=off"]
    train_in_process(tmp_path / "run", [*overrides_of(IMAGE_FOLDER), *CPU, *settings])
    moved = write_folders(tmp_path / "new", photos[0], {"": ""})
    assert evaluated(tmp_path / "run", overrides=(f"data.root={moved}",)).equality.equal is True
    alone = write_folders(tmp_path / "alone", photos[0], {"test": "val"})
    found = evaluated(tmp_path / "run", overrides=(f"data.root={alone}",))
    assert found.score == evaluated(tmp_path / "run").score


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a class more": ({"a": "val/a", "c": "val/b"}, "'c'"),
    "no classes": ({"images": "val/a"}, "'images'"),
    "a class more in test": ({"test": "val", "test/c": "val/a"}, "'c'"),
    "a split of another name": ({"holdout": "val"}, "holdout"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_classes_are_one_message(case: str, photos: tuple[Path, Path], tmp_path: Path) -> None:
    names, text = REFUSED[case]
    root = write_folders(tmp_path / "new", photos[0], names)
    with pytest.raises(UsageError, match=text):
        evaluated(photos[1], overrides=(f"data.root={root}",))


def test_labels_follow_the_names_of_the_classes(photos: tuple[Path, Path], tmp_path: Path) -> None:
    """A class without images shifts the labels of a data set, not what they mean."""
    root = write_folders(tmp_path / "new", photos[0], {"test/b": "val/b"})
    found = evaluated(photos[1], overrides=(f"data.root={root}",))
    assert [score.images for score in found.classes] == [0, evaluated(photos[1]).classes[1].images]


def test_images_of_another_size_are_one_message(photos: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"3x16x16.*3x32x32.*data\.size"):
        evaluated(photos[1], overrides=("data.size=16", "data.short_side=18"))


def test_stored_run_chooses_no_place_to_download_to(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    content = yaml.safe_load((folder / "config.yaml").read_text())
    data = {"_target_": "train.data.torchvision_sets.svhn", "root": str(tmp_path / "elsewhere"), "download": True}
    shared = {key: content["data"][key] for key in ("preprocess", "val_fraction", "workers", "verify")}
    (folder / "config.yaml").write_text(yaml.safe_dump(content | {"data": data | shared}))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"input_shape": [3, 32, 32]}))
    with pytest.raises(UsageError, match=r"data\.download=false"):
        evaluated(folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_broken_root_is_one_message(photos: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        evaluated(photos[1], overrides=(f"data.root={tmp_path / 'nowhere'}",))


def test_changed_images_are_told(photos: tuple[Path, Path], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "images", photos[0], {"": ""})
    shutil.rmtree(root / "val" / "a")
    shutil.copytree(root / "val" / "b", root / "val" / "a")
    found = evaluated(photos[1], overrides=(f"data.root={root}",))
    assert found.equality.equal is None
    assert "val" in found.equality.reason or "test" in found.equality.reason
