"""Decoders of JPEGs that are packages of their own, against Pillow."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from scripts.catalogue import overrides_of, write_images
from tests.harness import compose_config, settings_for, train_in_process
from tests.sweep.conftest import python_with  # noqa: F401
from train.data.batches import Batching
from train.data.contracts import Decoding, Files
from train.data.decode import decode_frame
from train.data.folder_reader import FolderReader
from train.data.image_folder import CentreFraming, image_folder
from train.data.jpeg import PACKAGES, cut, read_image, refuse_missing
from train.data.preprocess import Preprocess
from train.errors import RunError, UsageError
from train.parts.augment import Pipeline, multi_scale
from train.run.dry_run import check_configs
from train.run.setup import prepare
from train.store.identity import identity
from train.store.stored import read_stored

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core

HEIGHT, WIDTH = 120, 160
FRAMING = CentreFraming(short_side=60, crop=40)
MEAN, MOST = 1.0, 8
"""By how much the pixels of a smooth picture may differ: the region is rounded to whole pixels."""


def is_usable(decoder: Any) -> bool:
    try:
        refuse_missing(decoder)
    except UsageError:
        return False
    return True


INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(not is_usable(name), reason=f"{package} is not installed"))
    for name, (package, _, _) in PACKAGES.items()
]


def picture(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(7 * x + 2 * y), np.sin(3 * x - 5 * y + 1), np.cos(4 * x * y + 6 * y)]
    return Image.fromarray((np.stack(waves, -1) * 110 + 128).round().astype(np.uint8))


def saved(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    (picture() if image is None else image).save(path, quality=95, **options)
    return path


def frame(height: int, width: int) -> Any:
    return FRAMING.test_region(height, width), FRAMING.size()


def read(path: Path, decoder: Any = "pillow", channels: int = 3, draft: float | None = 2.0) -> torch.Tensor:
    return read_image(path, frame, channels, Decoding(decoder, draft))


def assert_near(image: torch.Tensor, expected: torch.Tensor) -> None:
    assert image.dtype == torch.uint8
    assert image.shape == expected.shape
    difference = (image.int() - expected.int()).abs()
    assert difference.float().mean() <= MEAN
    assert difference.max() <= MOST


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("decoder", INSTALLED)
def test_every_orientation_is_turned_upright(tmp_path: Path, decoder: str, orientation: int) -> None:
    path = saved(tmp_path / "a.jpg", **turned(orientation))
    assert_near(read(path, decoder), read(path))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("decoder", INSTALLED)
def test_grey_and_colour_become_what_is_asked_for(tmp_path: Path, decoder: str, mode: str, channels: int) -> None:
    path = saved(tmp_path / "a.jpg", picture().convert(mode))
    assert_near(read(path, decoder, channels), read(path, channels=channels))


OTHERS = {
    "png": lambda path: saved(path / "a.png"),
    "png that is called a jpg": lambda path: saved(path / "a.png").rename(path / "a.jpg"),
    "webp": lambda path: saved(path / "a.webp"),
    "cmyk": lambda path: saved(path / "a.jpg", picture().convert("CMYK")),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("decoder", INSTALLED)
def test_other_formats_and_modes_are_pillows_to_the_bit(tmp_path: Path, decoder: str, kind: str) -> None:
    path = OTHERS[kind](tmp_path)
    assert torch.equal(read(path, decoder), read(path))


KINDS: dict[str, dict[str, Any]] = {
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "4:2:0": {"subsampling": 2},
    "with a comment": {"comment": "a" * 5000},
    "with a profile": {"icc_profile": b"b" * 90_000},
    "restart markers": {"restart_marker_blocks": 2},
    "optimized": {"optimize": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", INSTALLED)
def test_kinds_of_jpegs_are_near_pillow(tmp_path: Path, decoder: str, kind: str) -> None:
    path = saved(tmp_path / "a.jpg", **KINDS[kind])
    assert_near(read(path, decoder), read(path))


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (7, 3), (2000, 30), (901, 1203)])
@pytest.mark.parametrize("decoder", INSTALLED)
def test_images_of_any_size_are_read(tmp_path: Path, decoder: str, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "a.jpg", picture(*size))
    assert read(path, decoder).shape == (3, 40, 40)
    if min(size) > 40:
        assert_near(read(path, decoder), read(path))


@pytest.mark.parametrize("decoder", INSTALLED)
def test_damaged_jpeg_is_named(tmp_path: Path, decoder: str) -> None:
    path = saved(tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(RunError, match=r"cut\.jpg cannot be decoded: .*truncated"):
        read(path, decoder)


@pytest.mark.parametrize("decoder", ["pillow", *INSTALLED])
def test_draft_decodes_smaller_where_enough_pixels_are_left(tmp_path: Path, decoder: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT * 4, WIDTH * 4, 3), np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(noise))
    whole, usual, small = (read(path, decoder, draft=draft) for draft in (None, 2.0, 1.0))
    if decoder == "torchcodec":
        assert torch.equal(whole, small)
        return
    assert not torch.equal(whole, usual)
    assert not torch.equal(usual, small)
    near = saved(tmp_path / "b.jpg")
    assert torch.equal(read(near, decoder, draft=None), read(near, decoder)), "three times the pixels are no four times"


def test_usual_decoding_is_that_of_before(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", picture(901, 1203))
    assert torch.equal(read(path), decode_frame(path, frame))
    assert torch.equal(read(path), read_image(path, frame, 3, Decoding(), path.read_bytes()))


def test_region_of_the_right_size_is_copied() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    expected = torch.from_numpy(pixels[5:45, 10:50].copy()).permute(2, 0, 1)
    assert torch.equal(cut(pixels, (50, 60), (5.2, 9.8, 40.0, 40.0), (40, 40), 3), expected)
    assert cut(pixels, (500, 600), (499.9, 599.9, 0.1, 0.1), (4, 4), 3).shape == (3, 4, 4), "beyond the last pixel"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [20, 40, 50])
def test_region_is_resized_as_by_torch_and_lies_as_the_batch_does(side: int, channels: int) -> None:
    """With the channels innermost: to turn each image around took longer than to resize it."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, channels), np.uint8)
    found = cut(pixels, (50, 60), (0.0, 5.0, side, side), (40, 40), channels)
    planes = torch.from_numpy(pixels[:side, 5 : 5 + side].transpose(2, 0, 1).copy())[None]
    assert torch.equal(found[None], functional.interpolate(planes, (40, 40), mode="bilinear", antialias=True))
    assert found.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("decoder", INSTALLED)
def test_decoder_gives_the_same_bits_for_any_workers(tmp_path: Path, decoder: Any) -> None:
    paths = tuple(saved(tmp_path / f"{index}.jpg", picture(90 + index, 130 - index)) for index in range(6))
    files = Files(paths, torch.arange(6), Decoding(decoder))
    batching = Batching(3, torch.device("cpu"), order_seed=1, augment_seed=2)
    crop = multi_scale([60, 90], 40, 60)
    raw = Preprocess("none", (0.0,) * 3, (1.0,) * 3)
    readers = [FolderReader(files, Pipeline([crop]), raw, batching, framing=FRAMING, workers=count) for count in (0, 2)]
    alone, many = ([batch.images for batch in reader.epoch(0)] for reader in readers)
    for reader in readers:
        reader.close()
    assert all(map(torch.equal, alone, many))


@pytest.mark.parametrize("decoder", PACKAGES)
def test_missing_package_is_named_before_the_folder_is_read(monkeypatch: pytest.MonkeyPatch, decoder: Any) -> None:
    package, module, _ = PACKAGES[decoder]
    from train.data.jpeg import _function

    _function.cache_clear()
    for name in (package, module):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UsageError, match=rf"data\.decoder={decoder}: this needs the package {package}, which is not .*pip install"
    ):
        image_folder("/nowhere", decoder=decoder)
    (check,) = check_configs(([compose_config([*FOLDER, "data.root=/nowhere", f"data.decoder={decoder}"])], (), False, []))
    assert package in str(check.problem)


FOLDER = [*overrides_of("data=image_folder"), "observe=off"]
WRONG = {
    "data.decoder=opencv": "data.decoder=opencv",
    "data.decoder=null": "data.decoder=null",
    "data.draft=0.5": "data.draft=0.5: it should be greater than or equal to 1",
    "data.draft=true": "data.draft=true",
    "data.draft=whole": "data.draft=whole",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_setting_is_one_message(wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(settings_for([*FOLDER, "data.root=/nowhere", wrong]))
    assert WRONG[wrong] in str(caught.value)


def test_usual_decoding_is_no_part_of_the_identity_and_others_are() -> None:
    def id_of(*overrides: str) -> str:
        return identity(compose_config([*FOLDER, "data.root=photos", *overrides]))

    before = dict(compose_config([*FOLDER, "data.root=photos"]))
    assert isinstance(before["data"], dict)
    before["data"] = {key: value for key, value in before["data"].items() if key not in ("decoder", "draft")}
    assert identity(before) == id_of() == id_of("data.decoder=pillow", "data.draft=2")
    assert len({id_of(), id_of("data.decoder=turbojpeg"), id_of("data.draft=1"), id_of("data.draft=null")}) == 4


def test_fingerprint_has_another_decoding_and_not_the_usual_one(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    command = [*FOLDER, f"data.root={tmp_path / 'images'}"]
    usual = train_in_process(tmp_path / "usual", command)
    whole = train_in_process(tmp_path / "whole", [*command, "data.draft=null"])
    found = [read_stored(run.path, "summary.json")["fingerprint"] for run in (usual, whole)]
    assert "decoding" not in found[0]
    package = f"pillow {Image.__version__}"
    assert found[1].pop("decoding") == {"decoder": "pillow", "package": package, "draft": None}
    assert found[1] == found[0], "there is no JPEG here"


def test_content_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG")
    assert read_image(tmp_path / "gone.jpg", frame, 3, Decoding(), buffer.getvalue()).shape == (3, 40, 40)


@pytest.mark.long
@pytest.mark.parametrize("decoder", PACKAGES)
def test_extra_brings_the_decoder(python_with: Callable[[str], str], decoder: str) -> None:  # noqa: F811
    """The tests of this file that need its package, in an environment that has it."""
    command = [python_with(decoder), "-m", "pytest", "-p", "no:cacheprovider", "-q", "-k", f"{decoder} and not missing", __file__]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
