"""The data set: what it finds, and every way a folder can be wrong."""

import shutil

import numpy as np
import pytest
from PIL import Image

from train.data.contracts import Files
from train.data.image_folder import CentreFraming, image_folder
from train.errors import UsageError
from train.parts.contracts import Framing


def save(path, value=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes; train and val."""
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def message(root, **settings):
    with pytest.raises(UsageError) as caught:
        image_folder(str(root), **settings).load()
    return str(caught.value)


def names(files):
    assert isinstance(files, Files)
    return [f"{path.parent.name}/{path.name}" for path in files.paths]


def test_image_folder_classes_labels_and_shape(root):
    data = image_folder(str(root), size=4, short_side=6)
    splits = data.load()
    assert data.shape == (3, 4, 4)
    assert data.class_names == ("cat", "dog")
    assert names(splits.train) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert image_folder(str(root), channels=1).shape == (1, 224, 224)


def test_image_folder_val_alone_is_test_split(root):
    splits = image_folder(str(root)).load()
    assert splits.val is None
    assert isinstance(splits.test, Files)
    assert all(path.is_relative_to(root / "val") for path in splits.test.paths)


def test_image_folder_keeps_val_and_test(root):
    save(root / "test" / "cat" / "a.png")
    save(root / "test" / "dog" / "a.png")
    splits = image_folder(str(root)).load()
    assert names(splits.test) == ["cat/a.png", "dog/a.png"]
    assert splits.val is not None
    assert len(splits.val) == 4


def test_image_folder_test_alone(root):
    (root / "val").rename(root / "test")
    splits = image_folder(str(root)).load()
    assert splits.val is None
    assert len(splits.test) == 4


def test_image_folder_selects_image_suffixes(root):
    folder = root / "train" / "cat"
    save(folder / "UPPER.JPG")
    save(folder / "nested" / "deep" / "x.webp")
    save(folder / ".hidden.png")
    save(folder / ".cache" / "x.png")
    save(root / "train" / ".thumbnails" / "x.png")
    (folder / "notes.txt").write_text("no image")
    (root / "train" / "README").write_text("no class")
    splits = image_folder(str(root)).load()
    assert isinstance(splits.train, Files)
    names = [str(path.relative_to(folder)) for path in splits.train.paths if path.is_relative_to(folder)]
    assert names == ["0.png", "1.png", "2.png", "UPPER.JPG", "nested/deep/x.webp"]
    assert splits.train.labels.tolist() == [0] * 5 + [1] * 3


def test_image_folder_expands_tilde(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(image_folder(f"~/{root.name}").load().train) == 6


def test_image_folder_refuses_unset_root():
    with pytest.raises(UsageError, match=r"data\.root is not set.*Set data\.root=FOLDER"):
        image_folder(None)


def test_image_folder_refuses_missing_root(tmp_path):
    assert f"data.root={tmp_path}/nowhere: there is no such folder" in message(tmp_path / "nowhere")


@pytest.mark.parametrize(("gone", "text"), [("train", "no folder train/"), ("val", "neither val/ nor test/")])
def test_image_folder_refuses_missing_split(root, gone, text):
    shutil.rmtree(root / gone)
    assert text in message(root)


def test_image_folder_refuses_split_without_classes(root):
    shutil.rmtree(root / "train")
    save(root / "train" / "0.png")
    assert f"{root}/train has no folders" in message(root)


def test_image_folder_refuses_class_without_images(root):
    (root / "train" / "owl").mkdir()
    (root / "train" / "owl" / "notes.txt").write_text("none yet")
    text = message(root)
    assert f"Classes without images in {root}/train: 'owl'" in text
    assert text.endswith("Left out: 1 .txt.")


def test_image_folder_refuses_one_class(root):
    for split in ("train", "val"):
        shutil.rmtree(root / split / "dog")
    assert message(root) == (
        f"data.root={root}: training needs at least two classes, and {root}/train holds 'cat' (3 images). "
        "Put the images of each class into a folder of their own."
    )


@pytest.mark.parametrize("inner", ["train", "images", "photos"])
def test_image_folder_refuses_classes_one_folder_too_deep(root, inner):
    for split in ("train", "val"):
        (root / split).rename(root / "moved")
        (root / split).mkdir()
        (root / "moved").rename(root / split / inner)
    text = message(root)
    assert f"data.root={root}: training needs at least two classes, and {root}/train holds '{inner}' (6 images)." in text
    moved = f"If the classes are 'cat', 'dog', move these folders from {root}/train/{inner} to {root}/train"
    assert text.endswith(f"{moved}, and so in the other splits.")


@pytest.mark.parametrize("outer", ["photos", "train", "val"])
def test_image_folder_names_the_root_inside_an_unpacked_archive(root, outer):
    (root.parent / "archive").mkdir()
    root.rename(root.parent / "archive" / outer)
    archive = root.parent / "archive"
    assert message(archive).endswith(f"{archive}/{outer} has that layout: set data.root={archive}/{outer}.")
    assert len(image_folder(f"{archive}/{outer}").load().train) == 6
    shutil.rmtree(archive)


def test_image_folder_refuses_splits_as_classes(root):
    """An archive that was unpacked into train/ and into val/: its splits would be the classes."""
    shutil.copytree(root, root / "copy")
    for split in ("train", "val"):
        shutil.rmtree(root / split)
        shutil.copytree(root / "copy", root / split)
    shutil.rmtree(root / "copy")
    text = message(root)
    assert f"{root}/train holds 'train' (6 images), 'val' (4 images)." in text
    assert text.endswith(f"{root}/train has that layout: set data.root={root}/train.")


def test_image_folder_counts_what_it_leaves_out(root):
    assert image_folder(str(root)).notes == ()
    for name in ("a.HEIC", "b.heic", "deep/c.HeiC", "d.txt", ".DS_Store", ".thumbs/x.png", "README", "e.png~"):
        (root / "train" / "cat" / name).parent.mkdir(exist_ok=True)
        (root / "train" / "cat" / name).write_bytes(b"x")
    (root / "val" / "dog" / "f.heic").write_bytes(b"x")
    save(root / "val" / "outside.png")
    save(root / "valid" / "cat" / "0.png")
    (note,) = image_folder(str(root)).notes
    kinds = "4 .heic, 2 hidden, 1 .png~, 1 .txt, 1 outside the class folders, 1 without a suffix"
    assert note == f"left out of {root}: {kinds}, the folder 'valid'"
    assert len(image_folder(str(root)).load().train) == 6


def test_image_folder_refuses_differing_classes(root):
    save(root / "train" / "owl" / "0.png")
    save(root / "val" / "emu" / "0.png")
    text = message(root)
    assert f"{root}/val lacks 'owl'" in text
    assert f"{root}/train lacks 'emu'" in text


def test_image_folder_refuses_empty_file(root):
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"train/dog/1\.png is empty"):
        image_folder(str(root))


def test_image_folder_refuses_broken_link(root):
    (root / "train" / "dog" / "9.png").symlink_to(root / "gone.png")
    with pytest.raises(UsageError, match=r"train/dog/9\.png cannot be read: No such file"):
        image_folder(str(root))


def test_image_folder_follows_links(root):
    (root / "elsewhere").mkdir()
    (root / "train" / "dog").rename(root / "elsewhere" / "dog")
    (root / "train" / "dog").symlink_to(root / "elsewhere" / "dog")
    assert len(image_folder(str(root)).load().train) == 6


def test_image_folder_finds_broken_headers(root):
    (root / "train" / "dog" / "1.png").write_bytes(b"no image at all")
    (root / "val" / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    text = message(root)
    assert f"{root}/train/dog/1.png is not an image that can be read" in text
    assert "2 of 10 files" in text
    assert len(image_folder(str(root), check=False).load().train) == 6


def test_image_folder_refuses_unconvertible_mode(root):
    Image.new("LAB", (8, 8)).save(root / "train" / "dog" / "lab.tiff")
    assert "lab.tiff" in message(root)


@pytest.mark.parametrize("limit", [99, 51])
def test_image_folder_refuses_decompression_bomb(root, monkeypatch, limit):
    save(root / "val" / "dog" / "huge.png", size=(10, 10 + limit % 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "val/dog/huge.png" in message(root)


def test_image_folder_refuses_crop_above_short_side():
    with pytest.raises(UsageError, match=r"data\.size=300 .*data\.short_side=256"):
        image_folder("anywhere", size=300)


def test_image_folder_default_framing():
    framing = CentreFraming(short_side=256, crop=224)
    assert isinstance(framing, Framing)
    assert framing.size() == (224, 224)
    assert framing.test_region(512, 1024) == (32, 288, 448, 448)
    assert np.allclose(framing.test_region(100, 100), (6.25, 6.25, 87.5, 87.5))
