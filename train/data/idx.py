"""The idx format of MNIST and its successors, and the four files such a set consists of.

torchvision has a reader too, but importing torchvision takes longer than reading these files, and it wants its own folders.
Format: Y. LeCun, http://yann.lecun.com/exdb/mnist: two zero bytes, the type (8: uint8), the number of dimensions, then each size
as a big-endian 32-bit number, then the values, row by row.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from train.data.contracts import Arrays, Splits

UINT8 = 0x08
LARGEST = 1 << 31
"""Limit in bytes of a file, unpacked: forty times the training images of MNIST."""
TRAIN, TEST = "train", "t10k"


def names(split: str) -> tuple[str, str]:
    """Return the file names, without .gz, of the images and the labels of a split (`TRAIN` or `TEST`)."""
    return f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"


def find(folder: Path, name: str) -> Path | None:
    """Return `folder/name` or `folder/name.gz`, whichever exists; None without either."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def is_complete(folder: Path) -> bool:
    """Return whether `folder` has all four files of a set."""
    return all(find(folder, name) for split in (TRAIN, TEST) for name in names(split))


def read(path: Path) -> Tensor:
    """Read a uint8 array from an idx file, gzipped if its name ends in .gz. ValueError: damaged; OSError: cannot be read."""
    try:
        content = _bounded(path)
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{dimensions}I", content, 4)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    start = 4 + 4 * dimensions
    if zeros != 0 or kind != UINT8 or len(content) != start + math.prod(sizes):
        raise ValueError(f"{path} is damaged or not an idx file of bytes")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(sizes)


def _bounded(path: Path) -> bytes:
    """Return the content of a file, unpacked. ValueError if that is larger than any set of images in memory."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST:,} bytes")
    return content


def write(path: Path, values: Tensor) -> None:
    """Write a uint8 array as gzipped idx; the same values give the same bytes (no time, no file name inside)."""
    header = struct.pack(f">HBB{values.dim()}I", 0, UINT8, values.dim(), *values.shape)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(header + values.contiguous().numpy().tobytes())
    path.write_bytes(packed.getvalue())


def read_split(folder: Path, split: str) -> Arrays:
    """Read one split: images uint8 [N, 1, H, W], labels int64 [N]. Errors as `read`; ValueError also when they do not match."""
    files = [find(folder, name) or folder / f"{name}.gz" for name in names(split)]
    images, labels = (read(path) for path in files)
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"{files[0]} {list(images.shape)} and {files[1].name} {list(labels.shape)} do not belong together")
    return Arrays(images.unsqueeze(1), labels.long())


def read_splits(folder: Path) -> Splits:
    """Read both splits of a set of four files. Errors as `read_split`."""
    return Splits(train=read_split(folder, TRAIN), test=read_split(folder, TEST))
