"""JPEGs by other decoders than Pillow, which are packages of their own.

Both decode whole images to the bits of Pillow's own libjpeg-turbo, as long as the versions of that library agree. What differs is
the way from there: the region is rounded to whole pixels and resized by torch's kernel, several times as fast as Pillow's.

`turbojpeg` is the package simplejpeg, whose wheel carries libjpeg-turbo: PyTurboJPEG needs the library of the system, and
torchvision's `decode_jpeg` cannot scale and copies the image once more. `torchcodec` cannot scale either.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from train.data.contracts import DecoderName, Decoding
from train.data.decode import Frame, Region, Size, decode_frame, draft_scale, exif_turn, open_image, reading, upright_size
from train.errors import UsageError

PACKAGES: Mapping[DecoderName, tuple[str, str, str]] = {
    "torchcodec": ("torchcodec", "torchcodec.decoders", "decode_jpeg"),
    "turbojpeg": ("simplejpeg", "simplejpeg", "decode_jpeg"),
}
"""Decoder -> its package, module and function."""
TURNING = frozenset({"torchcodec"})
"""Decoders that turn an image upright by themselves."""
SCALES = (8, 4, 2)


@lru_cache
def _function(decoder: DecoderName) -> Callable[..., Any]:
    _, module, name = PACKAGES[decoder]
    return getattr(importlib.import_module(module), name)


def refuse_missing(decoder: DecoderName) -> None:
    """Raise UsageError for a decoder whose package is not installed, or cannot be used."""
    if decoder not in PACKAGES:
        return
    package = PACKAGES[decoder][0]
    remedy = f"Install it (pip install 'train-lab[{decoder}]'), or use data.decoder=pillow."
    try:
        _function(decoder)
    except ModuleNotFoundError:
        raise UsageError(f"data.decoder={decoder}: this needs the package {package}, which is not installed. {remedy}") from None
    except Exception as error:  # a library that does not fit torch's version raises nearly anything
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"data.decoder={decoder}: the package {package} cannot be used ({reason}). {remedy}") from error


def describe(decoding: Decoding) -> dict[str, Any]:
    """Return how files are decoded, as plain values with the version of the package."""
    package = PACKAGES.get(decoding.decoder, ("pillow", "", ""))[0]
    draft = None if decoding.decoder == "torchcodec" else decoding.draft
    return {"decoder": decoding.decoder, "package": f"{package} {version(package)}", "draft": draft}


def read_image(path: str | Path, frame: Frame, channels: int, decoding: Decoding, content: bytes | None = None) -> Tensor:
    """Decode the region and size that `frame` gives to uint8 [channels, *size], as `decode_frame` does, with the chosen decoder.

    What is no JPEG, of a mode that is not grey or RGB, or refused by the decoder, is left to Pillow. RunError naming the file."""
    if decoding.decoder == "pillow":
        return decode_frame(path, frame, channels, decoding.draft, content)
    with reading(path):
        content = Path(path).read_bytes() if content is None else content
        image = open_image(io.BytesIO(content))
        turn = exif_turn(image) if image.format in ("JPEG", "MPO") else None
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return decode_frame(path, frame, channels, decoding.draft, content)
    full = upright_size(image, turn)
    box, size = frame(*full)
    pixels = _decoded(content, image, draft_scale(box, size, decoding.draft), decoding.decoder)
    if pixels is None:
        return decode_frame(path, lambda height, width: (box, size), channels, decoding.draft, content)  # noqa: ARG005
    return cut(pixels if decoding.decoder in TURNING else upright(pixels, turn), full, box, size, channels)


def _decoded(content: bytes, image: Image.Image, scale: float, decoder: DecoderName) -> np.ndarray[Any, Any] | None:
    """Return the pixels, at 1/2, 1/4 or 1/8 of the size if `scale` allows it; None when the decoder refuses the file."""
    factor = next((factor for factor in SCALES if factor <= scale), 1)
    least = -(-image.height // factor), -(-image.width // factor)
    try:
        return JPEG_DECODERS[decoder](content, image.mode, least)
    except Exception:  # Pillow decodes it, or says what is wrong
        return None


def _turbojpeg(content: bytes, mode: str, least: Size) -> np.ndarray[Any, Any]:
    decode_jpeg, space = _function("turbojpeg"), "GRAY" if mode == "L" else "RGB"
    return decode_jpeg(content, space, min_height=least[0], min_width=least[1], min_factor=2)


def _torchcodec(content: bytes, mode: str, least: Size) -> np.ndarray[Any, Any]:  # noqa: ARG001
    pixels = _function("torchcodec")(content, mode="GRAY" if mode == "L" else "RGB")
    return pixels.permute(1, 2, 0).numpy()


JPEG_DECODERS: Mapping[DecoderName, Callable[[bytes, str, Size], np.ndarray[Any, Any]]] = {
    "torchcodec": _torchcodec,
    "turbojpeg": _turbojpeg,
}


def jpeg_pixels(content: bytes, channels: int, size: Size, decoder: DecoderName) -> np.ndarray[Any, Any]:
    """Decode a sound JPEG of `size` (height, width) to uint8 [H, W, channels]."""
    if decoder in JPEG_DECODERS:
        return JPEG_DECODERS[decoder](content, "L" if channels == 1 else "RGB", size)
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image).reshape(*size, channels)


def upright(pixels: np.ndarray[Any, Any], turn: Image.Transpose | None) -> np.ndarray[Any, Any]:
    """Return a view of [H, W, C] that is turned as `Image.transpose` does."""
    return pixels if turn is None else TURNED[turn](pixels)


TURNED: Mapping[Image.Transpose, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: partial(np.rot90, k=3),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    Image.Transpose.ROTATE_90: np.rot90,
}


def cut(pixels: np.ndarray[Any, Any], full: Size, box: Region, size: Size, channels: int) -> Tensor:
    """Cut out a region given for an image of `full` size, rounded to whole pixels, and resize it: uint8 [channels, *size].

    pixels: uint8 [H, W, C], which may be smaller than `full`. Bilinear with antialiasing; a region of `size` is copied."""
    top, bottom = _whole(box[0], box[2], pixels.shape[0] / full[0], pixels.shape[0])
    left, right = _whole(box[1], box[3], pixels.shape[1] / full[1], pixels.shape[1])
    # The dimension of the batch first, or torch takes the channels for outermost: it would turn the pixels around, and who copies
    # them into a batch would turn them back. That took longer than the resize, for the same bits.
    image = torch.from_numpy(np.array(pixels[top:bottom, left:right], order="C"))[None].permute(0, 3, 1, 2)
    if image.shape[2:] != size:
        image = functional.interpolate(image, size, mode="bilinear", antialias=True)
    return image[0] if image.shape[1] == channels else _other_channels(image[0], channels)


def _whole(start: float, length: float, scale: float, most: int) -> tuple[int, int]:
    """Return the first pixel of a side, and the one after the last."""
    count = min(max(1, round(length * scale)), most)
    first = min(max(0, round(start * scale)), most - count)
    return first, first + count


def _other_channels(image: Tensor, channels: int) -> Tensor:
    """Return RGB as grey, by Pillow's rule, or grey as RGB."""
    if channels == 3:
        return image.expand(3, -1, -1)
    return torch.from_numpy(np.array(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("L")))[None]
