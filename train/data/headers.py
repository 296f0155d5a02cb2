"""The headers of image files: whether each can be read, and how large its image is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from train.data.decode import open_image
from train.errors import UsageError
from train.progress import step

CHECK_THREADS = 16
CHECK_CHUNK = 256


def check_headers(paths: Sequence[str | os.PathLike[str]], count: Callable[[int, int], int] = lambda height, width: 0) -> int:  # noqa: ARG005
    """Open every file as far as its header, and return the sum of `count(height, width)` over them, as the files are stored.

    UsageError with the number of those that cannot be read and the first of them."""
    chunks = [paths[start : start + CHECK_CHUNK] for start in range(0, len(paths), CHECK_CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor(CHECK_THREADS) as pool:
        warnings.simplefilter("ignore")  # about metadata, or about sizes that are an error here
        broken: list[str] = []
        total = 0
        for number, (found, counted) in enumerate(pool.map(lambda chunk: _read(chunk, count), chunks), 1):
            broken += found
            total += counted
            step("checking", min(number * CHECK_CHUNK, len(paths)), len(paths))
    if broken:
        more = f" ({len(broken)} of {len(paths)} files are like that.)" if len(broken) > 1 else ""
        raise UsageError(f"{broken[0]}. Replace or remove the file.{more}")
    return total


def _read(paths: Sequence[str | os.PathLike[str]], count: Callable[[int, int], int]) -> tuple[list[str], int]:
    messages, total = list[str](), 0
    for path in paths:
        try:
            with open_image(os.fspath(path)) as image:
                total += count(image.height, image.width)
        except Exception as error:  # Pillow's readers raise nearly anything on a broken file
            messages.append(f"{os.fspath(path)} is not an image that can be read: {str(error) or type(error).__name__}")
    return messages, total
