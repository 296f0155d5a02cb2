"""Folders of images are listed once, and again when they have changed. Progress is told meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.catalogue import overrides_of, write_images
from tests.conftest import Train
from tests.harness import compose_config
from train.data import file_hashes
from train.data.contracts import Files
from train.data.image_folder import image_folder
from train.errors import UsageError
from train.progress import told_to
from train.run.dry_run import check_configs

OLD = time.time() - 1000


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "train" / "listings"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of four images each, train/a, train/b, val/a, val/b, which have not changed for a while."""
    monkeypatch.setattr("train.data.folder_contents.SETTLED_S", 0.0)  # of times that cannot be set: those of change
    write_images(tmp_path / "photos")
    (tmp_path / "photos" / "train" / "a" / "deep").mkdir()
    shutil.copy(tmp_path / "photos" / "train" / "a" / "0.png", tmp_path / "photos" / "train" / "a" / "deep" / "x.png")
    (tmp_path / "photos" / "train" / "b" / "notes.txt").write_text("no image")
    time.sleep(0.02)
    return tmp_path / "photos"


def names(root: Path) -> list[str]:
    train = image_folder(str(root)).load().train
    assert isinstance(train, Files)
    return [str(path.relative_to(root)) for path in train.paths]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of classes that are listed."""
    found, scandir = list[str](), os.scandir

    def watched(path: Any) -> Any:
        found.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    return found


def of_classes(listed: list[str]) -> list[str]:
    return sorted(path for path in listed if not path.endswith(("photos", "train", "val")))


def test_folders_that_have_not_changed_are_listed_once(root: Path, listed: list[str]) -> None:
    before, notes = names(root), image_folder(str(root)).notes
    assert len(of_classes(listed)) == 5
    listed.clear()
    assert names(root) == before
    assert image_folder(str(root)).notes == notes == (f"left out of {root}: 1 .txt",)
    assert of_classes(listed) == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "9.png"),
    "removed": lambda root: (root / "train" / "a" / "2.png").unlink(),
    "renamed": lambda root: (root / "train" / "a" / "2.png").rename(root / "train" / "a" / "7.png"),
    "moved": lambda root: (root / "train" / "a" / "2.png").rename(root / "train" / "b" / "7.png"),
    "added in a folder": lambda root: shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "deep" / "9.png"),
    "a folder": lambda root: (root / "train" / "b" / "new").mkdir(),
    "a folder with images": lambda root: shutil.copytree(root / "train" / "a", root / "train" / "b" / "a"),
    "a folder less": lambda root: shutil.rmtree(root / "train" / "a" / "deep"),
    "a class": lambda root: [shutil.copytree(root / split / "b", root / split / "c") for split in ("train", "val")],
    "a link": lambda root: (root / "train" / "a" / "link.png").symlink_to(root / "train" / "a" / "0.png"),
    "another folder of this name": lambda root: (
        shutil.rmtree(root / "train" / "a"),
        shutil.copytree(root / "val" / "b", root / "train" / "a"),
    ),
    "times set back": lambda root: (
        shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "9.png"),
        os.utime(root / "train" / "a", (OLD, OLD)),
    ),
    "two folders swapped": lambda root: (
        (root / "train" / "a").rename(root / "c"),
        (root / "train" / "b").rename(root / "train" / "a"),
        (root / "c").rename(root / "train" / "b"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_folder_is_seen(root: Path, kept: Path, change: str) -> None:
    names(root)
    CHANGES[change](root)
    found = names(root)
    shutil.rmtree(kept)
    assert found == names(root), "what is found without the cache"


def test_file_that_is_emptied_is_refused(root: Path) -> None:
    names(root)
    (root / "train" / "a" / "0.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"0\.png"):
        names(root)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"version": 1}', '{"version": 1, "folders": {"a": 3}}', "\x00"])
def test_damaged_cache_is_not_used(root: Path, kept: Path, content: str) -> None:
    before = names(root)
    for path in kept.iterdir():
        path.write_text(content)
    assert names(root) == before


def test_listing_needs_no_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert names(root) == before


def test_folder_that_has_just_changed_is_not_kept(root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.folder_contents.SETTLED_S", file_hashes.SETTLED_S)
    names(root)
    assert all(json.loads(path.read_text())["folders"] == {} for path in kept.glob("*"))


def test_what_is_known_stays_known_whatever_the_clock_says(root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(root)
    before = {path: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.setattr("train.data.folder_contents.SETTLED_S", 1e6)
    names(root)
    assert {path: path.read_bytes() for path in kept.iterdir()} == before


def test_listing_checking_and_hashing_are_told(root: Path) -> None:
    told: list[tuple[str, int, int]] = []
    (config,) = [compose_config([*overrides_of("data=image_folder"), "observe=off", f"data.root={root}", "data.cache=uint8"])]
    with told_to(lambda *values: told.append(values)):
        image_folder(str(root)).load()
        check_configs(([config], (), False, []))
    assert {what for what, _, _ in told} == {"listing", "checking", "hashing", "caching (uint8)"}
    assert ("listing", 9, 0) in told
    assert ("checking", 17, 17) in told
    assert ("caching (uint8)", 9, 9) in told


def test_worker_tells_how_far_it_is(fork_server: Any) -> None:
    worker = fork_server.start("tests.data.loaders:load_slowly", 3)
    seen = set()
    while not fork_server.wait(0.05):
        seen |= {worker.told} - {None}
    assert worker.value == "loaded"
    assert ("hashing", 0, 3) in seen
    assert len(seen) > 1


@pytest.mark.slow
def test_runs_of_a_sweep_do_not_list_a_folder_again(root: Path, kept: Path, train: Train) -> None:
    """Shown by a list that lacks an image: the check of the sweep and its runs take it for true."""
    names(root)
    for path in kept.iterdir():
        path.write_text(path.read_text().replace('"0.png", ', "").replace(', "0.png"', ""))
    command = [*overrides_of("data=image_folder"), "observe=off", f"data.root={root}"]
    done = train("-m", "seed=0", *command, "hydra.sweep.dir=sweep", XDG_CACHE_HOME=str(kept.parents[1]))
    assert done.returncode == 0, done.stderr
    (data,) = (root.parent / "sweep").glob("*/data.json")
    assert json.loads(data.read_text())["splits"]["train"]["counts"] == [4, 3]


@pytest.mark.long
def test_a_hundred_thousand_files_are_listed_once(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CPU time, which a busy machine makes longer at times: the lowest of three counts."""
    monkeypatch.setattr("train.data.folder_contents.SETTLED_S", 0.0)
    root = tmp_path / "many"
    for split, count in (("train", 990), ("val", 10)):
        for label in range(100):
            folder = root / split / f"{label:03}"
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"an image")
            for index in range(1, count):
                (folder / f"{index}.png").hardlink_to(folder / "0.png")
    time.sleep(0.02)
    costs = []
    for _ in range(4):
        began = time.process_time()
        assert len(image_folder(str(root), check=False).load().train) == 99_000
        costs.append(time.process_time() - began)
    assert min(costs[1:]) < costs[0] / 1.5, "known by then"
    assert list(kept.iterdir())
