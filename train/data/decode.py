"""Decode one image file to a uint8 tensor: one region, one resize.

Regions are (top, left, height, width) in pixels of the image as it is meant to be seen, that is, turned as its EXIF orientation
says.

What the modes become, before the resize:
- grey, RGB: as they are. 1 bit, palette, CMYK, YCbCr, HSV: converted. Animations: their first frame.
- transparency (alpha channel, transparent palette entry or colour): laid over white, the page most such drawings are made for;
  over black, dark strokes would vanish.
- 16 bit grey: value / 257, so that 65535 becomes 255. 32 bit integers (how some formats hand over 16 bit) likewise; values
  outside [0, 65535] are an error.
- float grey: [0, 1] is spread over [0, 255]; a file with values above 1 is taken to be in [0, 255]; anything else is an error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from train.data.contracts import DRAFT_MARGIN
from train.errors import CANNOT_DECODE, RunError

Region: TypeAlias = tuple[float, float, float, float]
Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""
Frame: TypeAlias = Callable[[int, int], tuple[Region, Size]]
"""frame(height, width) of an image -> the region that is cut out, and the size that it is brought to."""

# As Pillow's guide: from 3 on, averaging whole blocks of pixels before the antialiased resize cannot be told from doing without.
REDUCING_GAP = 3.0

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns the stored image upright; 1 is upright already."""


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Open an image file and read its header only.

    Raises whatever Pillow raises, which is nearly anything, for a file that is not an image, has no pixels, a mode that cannot be
    converted, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS`."""
    image = Image.open(source)
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if width < 1 or height < 1:
        raise ValueError(f"the image is {width} x {height} pixels")
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width} x {height} pixels are more than the {limit} that Pillow takes for safe (a decompression bomb?)"
        )
    if image.mode == "LAB":
        raise ValueError("Pillow cannot convert LAB to RGB")
    return image


def decode(path: str | Path, region: Callable[[int, int], Region], size: Size, channels: int = 3) -> Tensor:
    """Decode the region `region(height, width)` of the image at `path` to uint8 [channels, *size], as `decode_frame` does."""
    return decode_frame(path, lambda height, width: (region(height, width), size), channels)


def decode_frame(
    path: str | Path, frame: Frame, channels: int = 3, draft: float | None = DRAFT_MARGIN, content: bytes | None = None
) -> Tensor:
    """Decode an image to uint8 [channels, *size] with Pillow. `frame`: the region, and the `size` that it is resized to once.

    The resize is bilinear with antialiasing. In memory the channels lie innermost, as Pillow has them. channels: 3 for RGB, 1 for
    grey (luma). draft: see `Decoding`. content: the bytes of the file, if they have been read. RunError naming the file when it
    cannot be decoded."""
    with reading(path):
        image = open_image(path if content is None else io.BytesIO(content))
    with image:
        with reading(path):
            if image.format not in ("JPEG", "MPO"):  # these alone can be drafted; others may find their orientation only now
                image.load()
            turn = exif_turn(image)
        height, width = upright_size(image, turn)
        box, size = frame(height, width)
        with reading(path):
            if (scale := draft_scale(box, size, draft)) > 1:
                image.draft(None, (max(1, int(image.width / scale)), max(1, int(image.height / scale))))
            upright = image if turn is None else image.transpose(turn)
            cut = _resize(to_8_bit(upright), box, (height, width), size)
            return _tensor(cut.convert("L" if channels == 1 else "RGB"))


def draft_scale(box: Region, size: Size, draft: float | None) -> float:
    """Return by how much a JPEG may be decoded smaller: 1, or 2 and more."""
    enough = 1.0 if draft is None else min(box[2] / size[0], box[3] / size[1]) / draft
    return enough if enough >= 2 else 1.0


def upright_size(image: Image.Image, turn: Image.Transpose | None) -> Size:
    """Return the (height, width) of an image that is turned so."""
    width, height = image.size
    return (width, height) if turn in _SWAPPING else (height, width)


_SWAPPING = {TURNS[orientation] for orientation in (5, 6, 7, 8)}


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to mode L or RGB, as the head of this file describes. ValueError for values out of range."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        _require(low >= 0 and high <= 65535, f"integer pixels from {low} to {high}, beyond [0, 65535]")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        _require(low >= 0 and high <= 255, f"float pixels from {low} to {high}, neither [0, 1] nor [0, 255]")  # NaN fails too
        return Image.fromarray((values * (255 if high <= 1 else 1)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _resize(image: Image.Image, region: Region, full: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Cut out and resize a region given for an image of `full` (height, width); `image` may have been decoded smaller."""
    down, across = image.height / full[0], image.width / full[1]
    top, left, height, width = region
    # Rounding may put an edge beyond the border by less than a millionth of a pixel, which Pillow refuses.
    box = (
        max(0.0, left * across),
        max(0.0, top * down),
        min(float(image.width), (left + width) * across),
        min(float(image.height), (top + height) * down),
    )
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box, reducing_gap=REDUCING_GAP)


def exif_turn(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that turns a stored image upright, None if it is."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF raises nearly anything; the pixels are sound, and stay as they are stored
        return None


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow raises into one RunError with the file's name."""
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise RunError(f"{path}{CANNOT_DECODE}{reason}. Replace or remove the file.") from error
