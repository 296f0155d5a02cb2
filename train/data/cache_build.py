"""The caches of a data set's splits: found by what they hold, or made once, by one process.

The name of a cache says where the files lie and what is kept of them, then what is in them: a hash of their names and contents.
So a changed data set has another cache, and the one that it had before is removed when the new one is whole. Versions of the
decoders do not count: runs of one sweep see the same pixels, whatever is installed meanwhile.

A cache is written beside its name and gets it when it is whole. Who is killed before leaves a part, which the next one removes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch.utils.data import Dataset

from train.data.cached_image import CachedImage, Caching, make_image
from train.data.contracts import CachedImages, Decoding, Files
from train.data.decoding_pool import DecodingPool
from train.data.file_hashes import file_hashes, user_cache
from train.data.image_cache import read_rows, write_cache
from train.errors import RunError, UsageError
from train.progress import step

FORMAT = 1
CHUNK = 16
"""Images that a worker makes at a time."""
DIGITS = 16


@dataclass(frozen=True)
class Making:
    """How the caches of a data set are made. `workers`: processes; `verify`: see `file_hashes`."""

    caching: Caching
    channels: int
    decoding: Decoding
    workers: int
    verify: bool


@dataclass(frozen=True)
class MadeImages:
    """What a worker returns."""

    images: Sequence[CachedImage]


class Maker(Dataset[MadeImages | RunError]):
    """A data set whose items are parts of a cache: names and hashes of files -> what is kept of them."""

    def __init__(self, making: Making) -> None:
        self.making = making

    def __getitem__(self, request: Sequence[tuple[str, bytes]]) -> MadeImages | RunError:
        making = self.making
        try:
            return MadeImages(
                [make_image(path, found, making.caching, making.channels, making.decoding) for path, found in request]
            )
        except RunError as error:
            return error


def with_cache(split: str, files: Files, making: Making) -> Files:
    """Return the files of a split with their cache, which is made if it is not there yet.

    UsageError for a file that cannot be decoded, and for a place that cannot be written.
    """
    if not len(files):
        return files
    names = [os.path.abspath(path) for path in files.paths]  # noqa: PTH100, a Path for each file would double the time
    root = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120
    hashes = file_hashes(names, making.verify)
    facts = cache_facts(split, root, names, hashes, making)
    place = _digest({"root": root} | {name: value for name, value in facts.items() if name not in ("images", "content")})
    folder = cache_folder(making.caching)
    path = folder / f"{split}-{place}-{facts['content']}.arrow"
    rows = read_rows(path, facts)
    if rows is None:
        with _one_message(path, making.caching), _locked(folder, f"{split}-{place}"):
            rows = read_rows(path, facts)  # again: another process may have made it meanwhile
            if rows is None:
                _make(path, facts, [*zip(names, hashes, strict=True)], len(root) + 1, making)
                rows = read_rows(path, facts)
                _remove_others(path, f"{split}-{place}")
    if rows is None:
        raise UsageError(f"{path}: what was written there cannot be read again. Name another folder with data.cache_dir=FOLDER.")
    return replace(files, cached=CachedImages(path, making.caching.kind, rows))


def cache_folder(caching: Caching) -> Path:
    """Return the folder of the caches."""
    return user_cache() / "images" if caching.folder is None else Path(caching.folder).expanduser()


def cache_facts(split: str, root: str, names: Sequence[str], hashes: Sequence[bytes], making: Making) -> dict[str, Any]:
    """Return what a cache holds, as plain values: all on which its bytes depend. `names`: below `root`."""
    content = hashlib.sha256()
    for name, found in zip(names, hashes, strict=True):
        content.update(os.fsencode(name[len(root) :]) + b"\0" + found)
    caching, decoding = making.caching, making.decoding
    return {
        "format": FORMAT,
        "split": split,
        "kind": caching.kind,
        "side": caching.side,
        "quality": caching.quality if caching.kind == "jpeg" else None,
        "channels": making.channels,
        "decoder": decoding.decoder,
        "draft": decoding.draft,
        "images": len(names),
        "content": content.hexdigest()[:DIGITS],
    }


def _make(path: Path, facts: Mapping[str, Any], files: Sequence[tuple[str, bytes]], start: int, making: Making) -> None:
    """Write the cache. `start`: of a name below the common folder."""
    partial = path.with_name(f".{path.name}.partial")
    names = (os.fsencode(name[start:]).decode(errors="backslashreplace") for name, _ in files)
    try:
        write_cache(partial, facts, zip(names, _images(files, making), strict=True))
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _images(files: Sequence[tuple[str, bytes]], making: Making) -> Iterator[CachedImage]:
    done, what = 0, f"caching ({making.caching.kind})"
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    with closing(DecodingPool(Maker(making), making.workers, keep=False)) as pool:
        for made in pool.decoded(chunks):
            yield from made.images
            done += len(made.images)
            step(what, done, len(files))


def _remove_others(path: Path, prefix: str) -> None:
    """Remove the caches of files that lay in the same place before, and what killed processes left of such."""
    for other in (*path.parent.glob(f"{prefix}-*.arrow"), *path.parent.glob(f".{prefix}-*.partial")):
        if other != path:
            with suppress(OSError):
                other.unlink()


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        step("waiting for the process that makes the cache", 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _one_message(path: Path, caching: Caching) -> Iterator[None]:
    """Turn what prevents a cache into one UsageError."""
    try:
        yield
    except RunError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(
            f"data.cache={caching.kind}: {path} cannot be written ({error.strerror or error}). "
            "Make room there, or name another folder with data.cache_dir=FOLDER."
        ) from error


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:DIGITS]
