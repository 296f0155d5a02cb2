"""One image of a cache: made from its file, and read again. Needs no pyarrow, so that workers start fast.

An image of a cache is upright, its short side is `side` pixels or what the file has, if that is less. Regions are drawn and given
in pixels of the file, as without a cache: what a run draws does not depend on it.
"""

from __future__ import annotations

import hashlib
import io
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image
from torch import Tensor

from train.data.contracts import CacheKind, Decoding
from train.data.decode import Frame, Region, Size, reading
from train.data.file_hashes import SIZE as HASH_BYTES
from train.data.jpeg import cut, jpeg_pixels, read_image
from train.errors import RunError


@dataclass(frozen=True)
class Caching:
    """What a cache keeps of an image. `side`: its short side in pixels; `quality`: of JPEGs; `folder`: None is the user's."""

    kind: CacheKind
    side: int
    quality: int
    folder: str | None = None


@dataclass(frozen=True)
class CachedImage:
    """One image. `content`: uint8 [H, W, C], or a JPEG; `size`: its (height, width); `source`: that of the upright file."""

    content: bytes
    size: Size
    source: Size

    @property
    def checksum(self) -> int:
        return checksum(self.content, (*self.size, *self.source))


def checksum(content: bytes, sizes: Sequence[int]) -> int:
    """Return the CRC-32C of an image: of its content, then of its sizes."""
    return google_crc32c.extend(google_crc32c.value(content), struct.pack("<4Q", *sizes))


def make_image(path: str, content_hash: bytes, caching: Caching, channels: int, decoding: Decoding) -> CachedImage:
    """Return what a cache keeps of a file. RunError naming it when it cannot be decoded, or is not what was hashed."""
    with reading(path):
        content = Path(path).read_bytes()
    if hashlib.sha256(content).digest()[:HASH_BYTES] != content_hash:
        raise RunError(f"{path} changed while the data set was read. Repeat the command when nobody changes it.")
    found: list[Size] = []

    def frame(height: int, width: int) -> tuple[Region, Size]:
        found.append((height, width))
        return (0.0, 0.0, float(height), float(width)), shrunk(height, width, caching.side)

    image = read_image(path, frame, channels, decoding, content)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    kept = pixels.tobytes() if caching.kind == "uint8" else _as_jpeg(pixels, caching.quality)
    return CachedImage(kept, (pixels.shape[0], pixels.shape[1]), found[0])


def shrunk(height: int, width: int, side: int) -> Size:
    """Return the size of an image whose short side is at most `side`."""
    short = min(height, width)
    if short <= side:
        return height, width
    return max(1, round(height * side / short)), max(1, round(width * side / short))


def _as_jpeg(pixels: np.ndarray[Any, Any], quality: int) -> bytes:
    """Return the JPEG, with colours at half the resolution, as is usual."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


class CachedReader:
    """Reads images of one file of a cache, in any order. It opens the file when it reads the first, in each process anew."""

    def __init__(self, path: Path, kind: CacheKind, channels: int, decoding: Decoding) -> None:
        self.path = path
        self.kind = kind
        self.channels = channels
        self.decoding = decoding
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def read(self, row: Sequence[int], frame: Frame) -> Tensor:
        """Return uint8 [channels, *size] of an image. `row`: see `CachedImages`. RunError for a file that is gone or damaged."""
        offset, length, *sizes, expected = row
        height, width, *source = sizes
        content = self._content(offset, length)
        if checksum(content, sizes) != expected:
            raise RunError(
                f"{self.path} is damaged: a checksum is not that of its image. Remove this file, and it is made again."
            )
        if self.kind == "uint8":
            pixels = np.frombuffer(content, np.uint8).reshape(height, width, self.channels)
        else:
            pixels = jpeg_pixels(content, self.channels, (height, width), self.decoding.decoder)
        box, size = frame(*source)
        return cut(pixels, (source[0], source[1]), box, size, self.channels)

    def _content(self, offset: int, length: int) -> bytes:
        try:
            if self._file is None:
                self._file = io.FileIO(self.path)
                weakref.finalize(self, self._file.close)
            self._file.seek(offset)
            return self._file.read(length) or b""
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}. Repeat the command, and it is made again.") from error
