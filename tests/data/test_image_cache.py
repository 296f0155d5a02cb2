"""The cache of images: the same draws as without, made once and whole, and never that of other files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from filelock import FileLock
from PIL import Image

from scripts.catalogue import overrides_of, write_images
from tests.harness import COMMAND, compose_config, run_content, settings_for, train_in_process
from train.data.batches import Batching
from train.data.cached_image import shrunk
from train.data.contracts import Files
from train.data.decode import decode
from train.data.folder_reader import FolderReader, fit_files
from train.data.image_cache import KEY
from train.data.image_folder import CentreFraming, image_folder
from train.data.preprocess import Preprocess
from train.data.split import split_validation
from train.errors import RunError, UsageError
from train.parts.augment import Pipeline, multi_scale
from train.rng import generator
from train.run.setup import prepare
from train.store.identity import identity
from train.store.stored import read_stored

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core

SETTINGS: dict[str, Any] = {"size": 24, "short_side": 28}
CROP = multi_scale([26, 40], 24, 28)
RAW = Preprocess("none", (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "train" / "images"


def picture(height: int, width: int, shift: float = 0.0) -> Image.Image:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(7 * x + 2 * y + shift), np.sin(3 * x - 5 * y + 1), np.cos(4 * x * y + 6 * y + shift)]
    return Image.fromarray((np.stack(waves, -1) * 110 + 128).round().astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four JPEGs in train, of two in val, all of other sizes."""
    for split, count in (("train", 4), ("val", 2)):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                picture(40 + 7 * index, 61 - index, index).save(folder / f"{index}.jpg", quality=95)
    return tmp_path / "photos"


def load(root: Path, cache: Any = "uint8", **settings: Any) -> Files:
    train = image_folder(str(root), **SETTINGS | {"cache": cache} | settings).load().train
    assert isinstance(train, Files)
    return train


def reader(files: Files, pipeline: Pipeline | None = None, workers: int = 0, channels: int = 3) -> FolderReader:
    batching = Batching(4, torch.device("cpu"), order_seed=1, augment_seed=2)
    raw = Preprocess("none", (0.0,) * channels, (1.0,) * channels)
    framing = CentreFraming(28, 24)
    return FolderReader(files, pipeline or Pipeline([CROP]), raw, batching, framing=framing, channels=channels, workers=workers)


def images(files: Files, epoch: int = 0, **settings: Any) -> torch.Tensor:
    found = reader(files, **settings)
    try:
        return torch.cat([batch.images for batch in found.epoch(epoch)])
    finally:
        found.close()


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def cache_files(caches: Path) -> list[str]:
    return sorted(path.name for path in caches.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("kind", ["uint8", "jpeg"])
def test_cache_shows_the_images_and_the_draws_of_the_files(root: Path, kind: str) -> None:
    files, kept = load(root, "none"), load(root, kind, cache_side=40)
    assert files.cached is None
    assert kept.cached is not None
    first, second = (images(kept, epoch) - images(files, 0) for epoch in range(2))
    assert first.abs().mean() * 255 < 5, "regions are rounded to whole pixels, of which there are few here"
    assert second.abs().mean() > 5 * first.abs().mean(), "other draws"
    mean, std = (fit_files("standardize", source, CROP).mean for source in (files, kept))
    assert np.allclose(mean, std, atol=0.01)


@pytest.mark.parametrize("kind", ["uint8", "jpeg"])
def test_cache_gives_the_same_bits_for_any_workers_and_in_any_order(root: Path, kind: str) -> None:
    kept = load(root, kind)
    assert torch.equal(images(kept), images(kept, workers=2))
    whole, late = (torch.cat([batch.images for batch in reader(kept).epoch(3, start)]) for start in (0, 1))
    assert torch.equal(whole[4:], late)
    again = load(root, kind, workers=2)
    assert torch.equal(images(again), images(kept))


def test_images_that_were_made_by_many_workers_are_those_of_one(root: Path, caches: Path) -> None:
    load(root)
    first = {name: (caches / name).read_bytes() for name in cache_files(caches)}
    shutil.rmtree(caches)
    load(root, workers=2)
    assert {name: (caches / name).read_bytes() for name in cache_files(caches)} == first


def test_centre_of_a_cached_image_is_copied_from_it(root: Path) -> None:
    """With the short side of the framing there is no second resize: each pixel was resized once."""
    kept = load(root)
    path = kept.paths[0]
    full = size_of(path)
    height, width = shrunk(*full, 28)
    small = decode(path, lambda h, w: (0.0, 0.0, h, w), (height, width))
    side = 24 * min(full) / 28
    top, left = round((full[0] - side) / 2 * height / full[0]), round((full[1] - side) / 2 * width / full[1])
    (batch,) = list(reader(kept, Pipeline([])).eval_batches())[:1]
    assert torch.equal((batch.images[0] * 255).round().byte(), small[:, top : top + 24, left : left + 24])


@pytest.mark.parametrize("decoder", ["pillow"])
def test_grey_images_are_cached_grey(root: Path, decoder: str) -> None:
    kept, files = (load(root, kind, channels=1, decoder=decoder) for kind in ("jpeg", "none"))
    assert images(kept, channels=1).shape == (8, 1, 24, 24)
    assert (images(kept, channels=1) - images(files, channels=1)).abs().mean() * 255 < 4


def test_cache_follows_its_images_through_splits(root: Path) -> None:
    splits = split_validation(image_folder(str(root), **SETTINGS, cache="uint8").load(), 0.25, seed=3)
    for part in (splits.train, splits.val, splits.test):
        assert isinstance(part, Files)
        assert part.cached is not None
        assert len(part.cached.rows) == len(part)
        assert [tuple(row[4:6]) for row in part.cached.rows.tolist()] == [size_of(path) for path in part.paths]


def test_cache_is_an_arrow_file_that_others_read(root: Path, caches: Path) -> None:
    load(root)
    (path,) = caches.glob("train-*.arrow")
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert KEY in table.schema.metadata
    assert table.column_names == ["name", "image", "height", "width", "source_height", "source_width", "crc32c"]
    row = table.slice(1, 1).to_pylist()[0]
    assert row["name"] == "a/1.jpg"
    assert (row["height"], row["source_height"], row["source_width"]) == (28, 47, 60)
    assert len(row["image"]) == row["height"] * row["width"] * 3


def test_cache_is_made_once(root: Path, caches: Path) -> None:
    load(root)
    before = {path: path.stat().st_mtime_ns for path in caches.glob("*.arrow")}
    assert len(before) == 2
    load(root)
    assert {path: path.stat().st_mtime_ns for path in caches.glob("*.arrow")} == before


def change_a_byte(root: Path) -> None:
    path = root / "train" / "a" / "0.jpg"
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swap(root: Path) -> None:
    a, b = root / "train" / "a" / "0.jpg", root / "train" / "b" / "1.jpg"
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte, and the same times": change_a_byte,
    "two images are swapped": swap,
    "an image more": lambda root: shutil.copy(root / "train" / "a" / "0.jpg", root / "train" / "a" / "9.jpg"),
    "an image less": lambda root: (root / "train" / "b" / "0.jpg").unlink(),
    "another name": lambda root: (root / "train" / "b" / "0.jpg").rename(root / "train" / "b" / "00.jpg"),
    "another class": lambda root: (root / "train" / "b" / "0.jpg").rename(root / "train" / "a" / "7.jpg"),
    "another format": lambda root: picture(50, 50).save(root / "train" / "a" / "0.jpg", "PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_cached_anew_and_the_old_cache_is_removed(root: Path, caches: Path, change: str) -> None:
    load(root)
    (before,) = caches.glob("train-*.arrow")
    (val,) = caches.glob("val-*.arrow")
    CHANGES[change](root)
    kept = load(root)
    assert kept.cached is not None
    assert kept.cached.path != before
    assert not before.exists()
    assert val.exists()
    assert [tuple(row[4:6]) for row in kept.cached.rows.tolist()] == [size_of(path) for path in kept.paths]


OTHER = [
    {"cache": "jpeg"},
    {"cache_side": 30},
    {"channels": 1},
    {"draft": None},
    {"cache": "jpeg", "cache_quality": 50},
    {"short_side": 29},
]


def test_other_settings_have_a_cache_of_their_own(root: Path, caches: Path) -> None:
    load(root)
    for settings in OTHER:
        load(root, **settings)
    assert len(list(caches.glob("train-*.arrow"))) == 1 + len(OTHER)
    load(root, size=20, cache_side=28, cache_quality=7)
    assert len(list(caches.glob("train-*.arrow"))) == 1 + len(OTHER), "on none of these do the images depend"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": cut_off,
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "something else": lambda path: path.write_text("hello"),
    "gone": lambda path: path.unlink(),
    "of an earlier format": lambda path: path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 0')),
    "another one": lambda path: shutil.copy(next(path.parent.glob("val-*.arrow")), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_whole_cache_is_made_again(root: Path, caches: Path, damage: str) -> None:
    expected = images(load(root))
    (path,) = caches.glob("train-*.arrow")
    whole = path.read_bytes()
    DAMAGES[damage](path)
    assert torch.equal(images(load(root)), expected)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_one_message(root: Path, caches: Path, workers: int) -> None:
    load(root)
    (path,) = caches.glob("train-*.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"train-.*\.arrow is damaged: .*Remove this file"):
        images(load(root), workers=workers)


def test_cache_that_is_gone_is_one_message(root: Path, caches: Path) -> None:
    kept = load(root)
    shutil.rmtree(caches)
    with pytest.raises(RunError, match=r"arrow cannot be read: No such file .*made again"):
        images(kept)


def test_file_that_cannot_be_decoded_is_named_and_leaves_nothing(root: Path, caches: Path) -> None:
    path = root / "train" / "b" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"b/2\.jpg cannot be decoded"):
        load(root)
    assert cache_files(caches) == []


def test_place_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(UsageError, match=r"data\.cache=uint8: .* cannot be written .*data\.cache_dir=FOLDER"):
            load(root, cache_dir=str(place))
    kept = load(root, cache_dir=str(tmp_path / "there"))
    assert kept.cached is not None
    assert kept.cached.path.parent == tmp_path / "there"


BUILDER = """
import sys
from train.data import cached_image, cache_build
from train.data.image_folder import image_folder
made = cache_build.make_image
def slow(*arguments):
    global count
    count += 1
    if count > 3:
        print("in the middle", flush=True)
        import time; time.sleep(600)
    return made(*arguments)
count = 0
cache_build.CHUNK, cache_build.make_image = 1, slow
image_folder(sys.argv[1], size=24, short_side=28, cache="uint8").load()
"""


def test_killed_builder_leaves_nothing_that_is_taken_for_whole(root: Path, caches: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", BUILDER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"in the middle\n"
        assert len(list(caches.glob("*.partial"))) == 1
        builder.send_signal(signal.SIGKILL)
    assert list(caches.glob("*.arrow")) == []
    kept = load(root)
    assert cache_files(caches) == sorted(path.name for path in caches.glob("*.arrow"))
    assert torch.equal(images(kept), images(load(root)))


def test_part_that_a_killed_process_left_of_another_data_set_is_removed(root: Path, caches: Path, tmp_path: Path) -> None:
    left = load(root).cached
    assert left is not None
    part = caches / f".{left.path.name}.partial"
    left.path.rename(part)
    held = FileLock(caches / f"{part.name.rsplit('-', 1)[0]}.lock")
    with held:  # somebody writes it
        load(shutil.copytree(root, tmp_path / "others"))
        assert part.exists()
    load(shutil.copytree(root, tmp_path / "more"))
    assert not part.exists()


@pytest.mark.parametrize("kind", ["uint8", "jpeg"])
def test_full_disk_is_one_message_before_anything_is_written(
    root: Path, caches: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    message = f"data.cache={kind}: the images need .* in {caches}, where .* are free. Make room; or name another folder with"
    with pytest.raises(UsageError, match=message):
        load(root, kind)
    assert not caches.exists() or not cache_files(caches)


def test_room_that_a_cache_needs_is_what_it_takes(root: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of both splits: with some bytes less it is refused, with half as much again it is made."""
    usage = shutil.disk_usage(root)
    pixels = sum(int(np.prod(shrunk(*size_of(path), 28))) * 3 for path in root.rglob("*.jpg"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=pixels))
    with pytest.raises(UsageError, match="Make room"):
        load(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=pixels * 3 // 2))
    load(root)
    assert len(cache_files(caches)) == 2
    assert pixels < sum(path.stat().st_size for path in caches.glob("*.arrow"))


def test_cache_that_was_made_is_noted_with_the_others_there(root: Path, caches: Path) -> None:
    def notes(side: int) -> tuple[str, ...]:
        data = image_folder(str(root), size=24, short_side=28, cache="uint8", cache_side=side)
        data.load()
        return data.notes

    (first,) = notes(28)
    assert first.startswith(f"data.cache=uint8: made in {caches} (")
    assert first.endswith("for all runs, until you delete it there.")
    assert "2 other caches (" in notes(40)[0]


@pytest.mark.long
def test_kill_at_any_moment_leaves_a_whole_cache_or_none(root: Path, caches: Path) -> None:
    load(root)
    expected = {path.name: path.read_bytes() for path in caches.glob("*.arrow")}
    program = "import sys; from train.data.image_folder import image_folder; print('ready', flush=True); "
    program += "image_folder(sys.argv[1], size=24, short_side=28, cache='uint8').load()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for after_s in np.linspace(0.0, 0.6, 13):
        shutil.rmtree(caches)
        with subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, env=environment) as builder:
            assert builder.stdout is not None
            builder.stdout.readline()
            time.sleep(after_s)
            builder.kill()
        for path in caches.glob("*.arrow"):
            assert path.read_bytes() == expected[path.name]
        load(root)
        assert {path.name: path.read_bytes() for path in caches.glob("*.arrow")} == expected


@pytest.mark.long
def test_processes_that_start_together_make_one_cache(root: Path) -> None:
    program = "import os, sys; from train.data import cache_build; from train.data.image_folder import image_folder; "
    program += "write = cache_build.write_cache; "
    program += "cache_build.write_cache = lambda *a: (print('made', flush=True), write(*a)); "
    program += "image_folder(sys.argv[1], size=24, short_side=28, cache='uint8').load()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(root)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    assert b"".join(process.communicate()[0] for process in started) == b"made\n" * 2, "one a split"
    assert [process.returncode for process in started] == [0, 0]


FOLDER = [*overrides_of("data=image_folder"), "data.workers=0", "observe=off"]
WRONG = {
    "data.cache=zip": "data.cache=zip: it should be 'none', 'uint8' or 'jpeg'",
    "data.cache=null": "data.cache=null",
    "data.cache_side=0": "data.cache_side=0: it should be greater than or equal to 1",
    "data.cache_side=small": "data.cache_side=small",
    "data.cache_quality=0": "data.cache_quality=0: it should be greater than or equal to 1",
    "data.cache_quality=101": "data.cache_quality=101: it should be less than or equal to 100",
    "data.cache_dir=1": "data.cache_dir=1: it should be a string",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_setting_is_one_message(wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(settings_for([*FOLDER, "data.root=/nowhere", wrong]))
    assert WRONG[wrong] in str(caught.value)


def test_identity_has_the_cache_and_not_its_place() -> None:
    def id_of(*overrides: str) -> str:
        return identity(compose_config([*FOLDER, "data.root=photos", *overrides]))

    content = dict(compose_config([*FOLDER, "data.root=photos"]))
    assert isinstance(content["data"], dict)
    content["data"] = {key: value for key, value in content["data"].items() if not key.startswith("cache")}
    assert identity(content) == id_of() == id_of("data.cache_dir=/there")
    assert (
        len({id_of(), *(id_of(f"data.{key}") for key in ("cache=uint8", "cache=jpeg", "cache_side=9", "cache_quality=9"))}) == 5
    )


def test_run_on_a_cache_repeats_to_the_bit_and_records_it(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    command = [*FOLDER, f"data.root={tmp_path / 'images'}", "data.cache=jpeg", "data.cache_quality=90"]
    first = train_in_process(tmp_path / "first", command)
    again = train_in_process(tmp_path / "again", [*command, f"data.cache_dir={tmp_path / 'elsewhere'}"])
    assert run_content(first.path) == run_content(again.path)
    found = read_stored(first.path, "summary.json")["fingerprint"]["decoding"]
    assert found == {
        "decoder": "pillow",
        "package": f"pillow {Image.__version__}",
        "draft": 2.0,
        "cache": "jpeg",
        "side": 34,
        "quality": 90,
    }


NOTES = {
    ("data.cache_side=9",): "data.cache_side=9: no effect, as data.cache=none.",
    ("data.cache_dir=/there",): "data.cache_dir=/there: no effect, as data.cache=none.",
    (
        "data.cache=uint8",
        "data.cache_quality=9",
    ): "data.cache_quality=9: no effect, as data.cache=uint8 keeps the pixels as they are.",
    ("data.cache=jpeg", "data.cache_quality=9"): "",
    ("data.short_side=40", "augment=multi_scale"): "data.short_side=40: no effect, as the first augmentation cuts the images.",
    ("data.cache=uint8", "data.short_side=40", "augment=multi_scale"): "",
}


@pytest.mark.parametrize("typed", NOTES)
def test_setting_without_effect_is_noted(tmp_path: Path, typed: tuple[str, ...]) -> None:
    write_images(tmp_path / "images")
    scales = ["augment.multi_scale.crop=32"] if "augment=multi_scale" in typed else []
    notes = prepare(settings_for([*FOLDER, f"data.root={tmp_path / 'images'}", *typed, *scales]), typed).notes
    assert [note for note in notes if "no effect" in note] == ([NOTES[typed]] if NOTES[typed] else [])


def test_draws_do_not_depend_on_the_cache() -> None:
    """A region is drawn in pixels of the file; the cache only has fewer of them."""
    large, small = (CROP.train_region(generator(2, "augment", 0, 5), *size) for size in ((47, 60), (28, 36)))
    assert large != small


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_sweep_reads_a_cache_that_is_larger_than_its_memory(tmp_path: Path) -> None:
    """The limit is on what a process may allocate: files that are mapped do not count, as they need not stay in memory."""
    import resource

    limit, side, images = 1_700_000_000, 1200, 400
    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / "photos" / split / f"{label}"
            folder.mkdir(parents=True)
            Image.new("RGB", (side, side), (40 + 100 * label, 90, 30)).save(folder / "0.png")
            for index in range(1, images // 2 if split == "train" else 2):
                shutil.copy(folder / "0.png", folder / f"{index}.png")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    settings = [
        "data=image_folder",
        f"data.root={tmp_path}/photos",
        "data.cache=uint8",
        f"data.cache_side={side}",
        "data.size=16",
    ]
    settings += [
        "data.short_side=16",
        "data.workers=1",
        "augment=none",
        "model.width=4",
        "model.stages=2",
        "trainer.batch_size=20",
    ]
    command = [str(COMMAND), "-m", "norm=none,batch", *settings, "trainer.epochs=1", "observe=off", "hydra.sweep.dir=sweep"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, preexec_fn=limited, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.arrow")) > limit
    assert len(list((tmp_path / "sweep").glob("*/summary.json"))) == 2
    hold = subprocess.run([sys.executable, "-c", f"bytes({limit})"], preexec_fn=limited, capture_output=True, check=False)
    assert b"MemoryError" in hold.stderr, "the limit holds"
    shutil.rmtree(tmp_path / "cache")
