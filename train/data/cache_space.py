"""Room for caches: what a cache will need, what is free, and what else lies in their folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from train.data.cached_image import Caching, make_image, shrunk
from train.data.contracts import Decoding
from train.data.headers import check_headers
from train.errors import UsageError
from train.text import plural, size

ROW_BYTES = 128
"""Of the columns besides image and name, and of the padding between them; at most."""
SAMPLES = 16
"""Images that are made to estimate the size of a cache of JPEGs."""

HashedFiles = Sequence[tuple[str, bytes]]
"""Name and hash of each file."""


def refuse_full_disk(paths: Sequence[Path], files: HashedFiles, caching: Caching, channels: int, decoding: Decoding) -> None:
    """Raise UsageError where the caches at `paths`, all in one folder, would not find room for the images of these files.

    Reads the headers of all of them: UsageError as `check_headers`. RunError for one that cannot be decoded."""
    folder = paths[0].parent

    def pixels(height: int, width: int) -> int:
        rows, columns = shrunk(height, width, caching.side)
        return rows * columns

    needed = check_headers([name for name, _ in files], pixels) * channels
    free = _free_bytes(folder)
    if free is None:
        return
    about = ""
    if caching.kind == "jpeg" and needed > free:
        needed, about = round(needed * _jpeg_share(files, caching, channels, decoding)), "about "
    needed += ROW_BYTES * len(files) + sum(len(name) for name, _ in files)
    if needed <= free:
        return
    others = _others(folder, paths)
    holds = (
        f"; of the {plural(len(others), 'other cache')} there ({size(sum(others))}) delete those that no run needs"
        if others
        else ""
    )
    raise UsageError(
        f"data.cache={caching.kind}: the images need {about}{size(needed)} in {folder}, where {size(free)} are free. "
        f"Make room{holds}; or name another folder with data.cache_dir=FOLDER, or keep less of them: data.cache=jpeg, or a lower "
        "data.cache_side."
    )


def note_on_caches(paths: Sequence[Path], caching: Caching) -> str:
    """Return a sentence on caches that were made just now, all in one folder: they stay, as others do that lie there."""
    folder = paths[0].parent
    others = _others(folder, paths)
    beside = f" {plural(len(others), 'other cache')} ({size(sum(others))}) lie{'s' * (len(others) == 1)} there." if others else ""
    made = size(sum(_bytes([*paths])))
    return f"data.cache={caching.kind}: made in {folder} ({made}), for all runs, until you delete it there.{beside}"


def remove_partials(folder: Path, lock: str) -> None:
    """Remove what killed processes left of caches: parts whose lock nobody holds. `lock`: the one that this process holds."""
    for part in folder.glob(".*.arrow.partial"):
        name = part.name.rsplit("-", 1)[0]  # without the hash of the content
        with suppress(OSError, Timeout):
            if name == lock:
                part.unlink()
            else:
                with FileLock(folder / f"{name}.lock", timeout=0):
                    part.unlink()


def _jpeg_share(files: HashedFiles, caching: Caching, channels: int, decoding: Decoding) -> float:
    """Return the bytes of some of the images as JPEGs over those of their pixels."""
    chosen = files[:: -(-len(files) // SAMPLES)]
    images = [make_image(name, found, caching, channels, decoding) for name, found in chosen]
    return sum(len(image.content) for image in images) / sum(image.size[0] * image.size[1] * channels for image in images)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _others(folder: Path, paths: Sequence[Path]) -> list[int]:
    """Return the sizes of the caches in the folder that are not at one of the paths."""
    return _bytes(path for path in folder.glob("*.arrow") if path not in paths)


def _bytes(paths: Iterable[Path]) -> list[int]:
    found: list[int] = []
    for path in paths:
        with suppress(OSError):  # it was removed meanwhile
            found.append(path.stat().st_size)
    return found
