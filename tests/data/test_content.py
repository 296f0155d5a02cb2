"""What data are, wherever they lie: every change of what goes into a run changes their id, and names itself; others do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.catalogue import write_images
from train.data.content import content_of
from train.data.contracts import Arrays, Files, Splits
from train.data.file_hashes import HEADER, file_hashes
from train.data.image_folder import image_folder
from train.data.noise import noise
from train.errors import UsageError
from train.store.inputs import Inputs, data_differences


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "train" / "hashes"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, a and b, of four images each in train and in val."""
    write_images(tmp_path / "pictures")
    return tmp_path / "pictures"


def content(root: Path | str) -> dict[str, Any]:
    data = image_folder(str(root), check=False)
    return content_of(data.load(), data.class_names)


def id_of(content: dict[str, Any]) -> str:
    return Inputs(content).data_id


def swap(first: Path, second: Path) -> None:
    third = first.with_name("third")
    for source, target in ((first, third), (second, first), (third, second)):
        source.rename(target)


def change_byte(path: Path) -> None:
    bytes_ = bytearray(path.read_bytes())
    bytes_[-20] ^= 1
    path.write_bytes(bytes_)


def rename_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "b").rename(root / split / "cat")


def add_class(root: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(root / split / "b", root / split / "c")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "two classes of train swapped": (
        lambda root: swap(root / "train" / "a", root / "train" / "b"),
        "train/a holds what train/b held; train/b holds what train/a held",
    ),
    "two classes of val swapped": (lambda root: swap(root / "val" / "a", root / "val" / "b"), "test/a holds what test/b held"),
    "a byte of a training image": (lambda root: change_byte(root / "train" / "a" / "3.png"), "train/a: other images"),
    "a byte of a test image": (lambda root: change_byte(root / "val" / "b" / "0.png"), "test/b: other images"),
    "an image added": (
        lambda root: shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "9.png"),
        "train/a: 4 images -> 5",
    ),
    "an image removed": (lambda root: (root / "val" / "a" / "2.png").unlink(), "test/a: 4 images -> 3"),
    "an image of another class": (
        lambda root: (root / "train" / "a" / "0.png").rename(root / "train" / "b" / "9.png"),
        "train/a: 4 images -> 3; train/b: 4 images -> 5",
    ),
    "a class renamed": (rename_class, "classes: a, b -> a, cat"),
    "a class added": (add_class, "classes: a, b -> a, b, c; train: 8 images -> 12 images"),
    "two images of a class swapped": (
        lambda root: swap(root / "train" / "a" / "0.png", root / "train" / "a" / "1.png"),
        "train/a: other images or names of files (4)",
    ),
    "an image renamed to be the last": (
        lambda root: (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "9.png"),
        "train/a: other images or names of files (4)",
    ),
    "an image in a folder of its class": (
        lambda root: (
            (root / "val" / "a" / "x").mkdir(),
            (root / "val" / "a" / "0.png").rename(root / "val" / "a" / "x" / "0.png"),
        ),
        "test/a: other images or names of files (4)",
    ),
    "a split added": (lambda root: shutil.copytree(root / "val", root / "test"), "val: none -> 8 images"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_data_gives_another_id_and_is_named(root: Path, change: str) -> None:
    before = content(root)
    make, difference = CHANGES[change]
    make(root)
    after = content(root)
    assert id_of(after) != id_of(before)
    assert difference in data_differences(before, after)
    assert data_differences(before, before) == ""


def other_times(root: Path) -> Path:
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    return root


def linked(root: Path) -> Path:
    (root.parent / "link").symlink_to(root)
    return root.parent / "link"


SAME: dict[str, Callable[[Path], Path | str]] = {
    "copied": lambda root: shutil.copytree(root, root.parent / "elsewhere" / "pictures"),
    "moved": lambda root: root.rename(root.parent / "other"),
    "other times": other_times,
    "linked": linked,
    "relative path": lambda root: os.path.relpath(root),
    "a hidden file": lambda root: (root, (root / "train" / "a" / ".DS_Store").write_text(""))[0],
    "a file that is no image": lambda root: (root, (root / "train" / "a" / "notes.txt").write_text("a"))[0],
    "a folder beside the splits": lambda root: (root, (root / "raw").mkdir())[0],
}


@pytest.mark.parametrize("change", SAME)
def test_same_data_have_the_same_id_wherever_they_lie(root: Path, change: str) -> None:
    before = content(root)
    assert content(SAME[change](root)) == before


def splits_of(images: torch.Tensor, labels: list[int]) -> Splits:
    arrays = Arrays(images, torch.tensor(labels))
    return Splits(arrays, arrays)


def test_content_of_arrays_covers_pixels_labels_order_and_type() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    base = content_of(splits_of(images, [0, 1, 0, 1]), "ab")
    others = [
        content_of(splits_of(images ^ 1, [0, 1, 0, 1]), "ab"),
        content_of(splits_of(images, [1, 0, 1, 0]), "ab"),
        content_of(splits_of(images[[1, 0, 2, 3]], [1, 0, 0, 1]), "ab"),
        content_of(splits_of(images.float(), [0, 1, 0, 1]), "ab"),
        content_of(splits_of(images.reshape(4, 3, 4, 1), [0, 1, 0, 1]), "ab"),
        content_of(splits_of(images, [0, 1, 0, 1]), "ba"),
    ]
    assert len({id_of(found) for found in (base, *others)}) == len(others) + 1
    assert "in another order" in data_differences(base, others[2])
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert content_of(splits_of(strided, [0, 1, 0, 1]), "ab") == base


def test_content_of_drawn_images_are_their_numbers() -> None:
    """Their bits follow from the settings, and from the CPU: the same command on two machines is one experiment."""
    first, second = (noise(shape=(1, 4, 4), train_size=20, test_size=4, seed=0) for _ in range(2))
    found = content_of(first.load(), first.class_names)
    assert found == content_of(second.load(), second.class_names)
    assert set(found["splits"]["train"]) == {"images", "counts"}


OLD_FILES = sorted(map(str, (Path(__file__).parents[1] / "stored").rglob("*.json")))
"""Files that have not changed for a while, so that the cache keeps them."""


def entries(cache: Path) -> Path:
    (found,) = cache.iterdir()
    return found


def test_hashes_come_from_the_cache_unless_they_are_to_be_verified(cache: Path) -> None:
    hashes = file_hashes(OLD_FILES)
    kept = entries(cache).read_bytes()
    assert len(kept) == len(HEADER) + 32 * len(OLD_FILES)
    entries(cache).write_bytes(kept.replace(hashes[0], b"sixteen bytes...", 1))
    assert file_hashes(OLD_FILES) == [b"sixteen bytes...", *hashes[1:]], "the file was not read"
    assert file_hashes(OLD_FILES, verify=True) == hashes
    assert file_hashes(OLD_FILES) == hashes, "verifying mends the cache"
    assert len(set(hashes)) > 1


@pytest.mark.parametrize("content", [b"", HEADER + b"half an entry", b"train: hashes of files, 0\n" + bytes(32)])
def test_damaged_cache_is_not_used(cache: Path, content: bytes) -> None:
    hashes = file_hashes(OLD_FILES)
    entries(cache).write_bytes(content)
    assert file_hashes(OLD_FILES) == hashes


def test_files_that_have_just_changed_are_not_kept(root: Path, cache: Path) -> None:
    """They could change once more and keep size and times: clocks of file systems are coarse."""
    path = root / "train" / "a" / "0.png"
    before = file_hashes([str(path)])
    stat = path.stat()
    change_byte(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_hashes([str(path)]) != before
    assert not cache.exists()


def test_hashes_need_no_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(root)
    (tmp_path / "file").write_text("in the way of the cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content(root) == expected


def test_file_that_cannot_be_read_is_named(root: Path) -> None:
    path = root / "train" / "a" / "0.png"
    data = image_folder(str(root), check=False)
    path.unlink()
    with pytest.raises(UsageError, match=r"0\.png cannot be read: No such file or directory"):
        content_of(data.load(), data.class_names)


def test_files_without_a_common_folder_have_an_id(root: Path, tmp_path: Path) -> None:
    """A data set of one's own may have its images anywhere; a class may have none."""
    far = tmp_path / "far" / "x.png"
    far.parent.mkdir()
    shutil.copy(root / "train" / "a" / "0.png", far)
    source = Files((root / "train" / "a" / "0.png", far), torch.tensor([0, 2]))
    found = content_of(Splits(source, source), ("a", "b", "c"))
    assert found["splits"]["train"]["counts"] == [1, 0, 1]
