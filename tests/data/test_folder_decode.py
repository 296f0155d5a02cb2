"""Decoding against the obvious: the known pixels, all of them resized, then cropped."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from train.data.decode import decode, to_8_bit
from train.data.image_folder import CentreFraming
from train.errors import RunError

HEIGHT, WIDTH = 96, 120
FRAMING = CentreFraming(short_side=48, crop=32)


def picture(height=HEIGHT, width=WIDTH):
    """uint8 [H, W, 3]: smooth, and different in every channel and under every turn."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(7 * x + 2 * y), np.sin(3 * x - 5 * y + 1), np.cos(4 * x * y + 6 * y)]
    return (np.stack(waves, -1) * 110 + 128).round().astype(np.uint8)


def reference(pixels, framing=FRAMING):
    """float [3, h, w]: resize everything, cut the centre out."""
    full = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).permute(2, 0, 1)[None]
    scale = framing.short_side / min(full.shape[2:])
    size = [round(side * scale) for side in full.shape[2:]]
    small = F.interpolate(full, size, mode="bilinear", antialias=True)[0]
    top, left = ((side - framing.crop) // 2 for side in size)
    return small[:, top : top + framing.crop, left : left + framing.crop]


def read(path, framing=FRAMING, channels=3):
    return decode(path, framing.test_region, framing.size(), channels)


def assert_close(images, expected, most=1.5):
    assert images.dtype == torch.uint8
    assert images.shape == expected.shape
    assert (images.float() - expected).abs().max() <= most


def grey():
    return picture()[:, :, 0]


def as_rgb(plane):
    return np.repeat(np.asarray(plane)[:, :, None], 3, 2)


def palette_image():
    """A palette image of four colours and its pixels."""
    index = (picture()[:, :, 1] // 64).astype(np.uint8)
    colors = np.array([[250, 10, 30], [0, 200, 90], [40, 60, 220], [120, 120, 0]], np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), index.tobytes())
    image.putpalette(colors.flatten().tolist())
    return image, colors[index], index


def over_white(pixels, alpha):
    share = np.asarray(alpha)[:, :, None] / 255
    return pixels * share + 255 * (1 - share)


def files():
    """name -> (file, the pixels it shows, tolerance)."""
    rgb, plane, alpha = picture(), grey(), picture()[:, :, 2]
    image = Image.fromarray(rgb)
    palette, colors, index = palette_image()
    black_and_white = plane > 128
    wide = plane.astype(np.uint16) * 257
    return {
        "rgb.png": (image, {}, rgb, 1.5),
        "rgb.bmp": (image, {}, rgb, 1.5),
        "rgb.ppm": (image, {}, rgb, 1.5),
        "rgb.tiff": (image, {"compression": "tiff_lzw"}, rgb, 1.5),
        "rgb.webp": (image, {"lossless": True}, rgb, 1.5),
        "rgb.jpg": (image, {"quality": 95}, rgb, 6),
        "progressive.JPEG": (image, {"quality": 95, "progressive": True}, rgb, 6),
        "grey.png": (Image.fromarray(plane), {}, as_rgb(plane), 1.5),
        "grey.jpg": (Image.fromarray(plane), {"quality": 95}, as_rgb(plane), 6),
        "bit.png": (Image.fromarray(black_and_white), {}, as_rgb(black_and_white * 255), 1.5),
        "palette.png": (palette, {}, colors, 1.5),
        "palette.gif": (palette, {}, colors, 1.5),
        "palette_clear.png": (palette, {"transparency": 2}, over_white(colors, (index != 2) * 255), 2.5),
        "color_clear.png": (
            Image.fromarray(colors),
            {"transparency": (0, 200, 90)},
            over_white(colors, (index != 1) * 255),
            2.5,
        ),
        "alpha.png": (Image.merge("RGBA", (*image.split(), Image.fromarray(alpha))), {}, over_white(rgb, alpha), 2.5),
        "grey_alpha.png": (
            Image.merge("LA", (Image.fromarray(plane), Image.fromarray(alpha))),
            {},
            over_white(as_rgb(plane), alpha),
            2.5,
        ),
        "cmyk.tiff": (image.convert("CMYK"), {}, rgb, 2.5),
        "cmyk.jpg": (image.convert("CMYK"), {"quality": 95}, rgb, 12),
        "wide.png": (Image.fromarray(wide), {}, as_rgb(plane), 1.5),
        "wide.tiff": (Image.fromarray(wide), {}, as_rgb(plane), 1.5),
        "wide.pgm": (Image.fromarray(wide.astype(np.int32)), {}, as_rgb(plane), 1.5),
        "integer.tiff": (Image.fromarray(wide.astype(np.int32)), {}, as_rgb(plane), 1.5),
        "unit.tiff": (Image.fromarray(plane.astype(np.float32) / 255), {}, as_rgb(plane), 1.5),
        "float.tiff": (Image.fromarray(plane.astype(np.float32)), {}, as_rgb(plane), 1.5),
    }


NAMES = list(files())


@pytest.mark.parametrize("name", NAMES)
def test_decode_every_format_and_mode(tmp_path, name):
    image, options, pixels, most = files()[name]
    path = tmp_path / name
    image.save(path, **options)
    assert_close(read(path), reference(pixels), most)


def test_decode_cases_cover_pillows_modes(tmp_path):
    modes = set()
    for name, (image, options, _, _) in files().items():
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as reopened:
            modes.add(reopened.mode)
    assert modes >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"}


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_decode_rounds_16_bit_to_nearest(kind):
    values = np.arange(65536).reshape(256, 256)
    shown = np.asarray(to_8_bit(Image.fromarray(values.astype(kind))))
    assert np.array_equal(shown, np.round(values / 65535 * 255))


def test_decode_one_channel_is_luma(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    luma = picture() @ np.array([0.299, 0.587, 0.114])
    assert_close(read(tmp_path / "a.png", channels=1), reference(luma[:, :, None]), 2)


def test_decode_animation_gives_first_frame(tmp_path):
    image, colors, _ = palette_image()
    other = Image.new("RGB", image.size, "red")
    image.save(tmp_path / "a.gif", save_all=True, append_images=[other])
    assert_close(read(tmp_path / "a.gif"), reference(colors))


STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),  # shown turned clockwise, so stored turned anticlockwise
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.webp"])
def test_decode_applies_exif_orientation(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture())))
    stored.save(tmp_path / name, exif=exif, lossless=True, quality=95)  # each format takes what it knows
    assert_close(read(tmp_path / name), reference(picture()), 6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_decode_drafts_large_jpeg_within_its_noise(tmp_path, orientation):
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (150, 200, 3), np.uint8))
    large = np.asarray(coarse.resize((1600, 1200), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](large))).save(tmp_path / "a.jpg", quality=95, exif=exif)
    framing = CentreFraming(short_side=96, crop=80)
    difference = read(tmp_path / "a.jpg", framing).float() - reference(large, framing)
    assert difference.square().mean().sqrt() < 1.5


def test_decode_enlarges_small_image(tmp_path):
    Image.fromarray(picture(12, 15)).save(tmp_path / "a.png")
    assert_close(read(tmp_path / "a.png"), reference(picture(12, 15)))


def test_decode_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert image.shape == (3, 32, 32)
    assert image.flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]


def test_decode_region_of_any_shape(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    seen = []

    def region(height, width):
        seen.append((height, width))
        return 8.0, 40.0, 64.0, 20.0

    image = decode(tmp_path / "a.png", region, (32, 10))
    whole = F.interpolate(torch.from_numpy(picture()).permute(2, 0, 1)[None].float(), (48, 60), mode="bilinear", antialias=True)[
        0
    ]
    assert seen == [(HEIGHT, WIDTH)]
    assert_close(image, whole[:, 4:36, 20:30])


def broken(folder: Path):
    Image.fromarray(picture()).save(folder / "whole.jpg")
    Image.fromarray(picture()).save(folder / "whole.png")
    for kind in ("jpg", "png"):
        data = (folder / f"whole.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("not an image")
    Image.fromarray(np.array([[70000, 1], [1, 1]], np.int32)).save(folder / "integer.tiff")
    Image.fromarray(np.array([[-0.5, 1], [1, 1]], np.float32)).save(folder / "float.tiff")
    Image.fromarray(np.array([[np.nan, 1], [1, 1]], np.float32)).save(folder / "nan.tiff")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated|broken"),
        ("text.png", "cannot identify"),
        ("missing.png", "No such file"),
        ("integer.tiff", "70000"),
        ("float.tiff", r"-0\.5"),
        ("nan.tiff", "nan"),
    ],
)
def test_decode_names_broken_file(tmp_path, name, reason):
    broken(tmp_path)
    with pytest.raises(RunError, match=reason) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_decode_passes_on_framing_errors(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(ZeroDivisionError):
        decode(tmp_path / "a.png", lambda height, width: (height / 0, 0, width, 1), (8, 8))


@pytest.mark.parametrize("limit", [HEIGHT * WIDTH - 1, HEIGHT * WIDTH // 3])
def test_decode_refuses_decompression_bomb(tmp_path, monkeypatch, limit):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(RunError, match=r"a\.png.*pixels"):
        read(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_decode_ignores_broken_exif(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\x00\x00nonsense")
    assert_close(read(tmp_path / "a.jpg"), reference(picture()), 6)
