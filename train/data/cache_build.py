"""The caches of a data set's splits: found by what they hold, or made once, by one process.

The name of a cache says where the files lie and what is kept of them, then what is in them: a hash of their names and contents.
So a changed data set has another cache, and the one that it had before is removed when the new one is whole. Versions of the
decoders do not count: runs of one sweep see the same pixels, whatever is installed meanwhile.

A cache is written beside its name and gets it when it is whole. Who is killed before leaves a part, which the next one who makes
a cache in this folder removes.
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
from torch import Tensor
from torch.utils.data import Dataset

from train.data.cache_space import note_on_caches, refuse_full_disk, remove_partials
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


@dataclass(frozen=True)
class _Planned:
    """The cache of a split that is to be there. `start`: of a file's name below the folder of all; `lock`: its name."""

    path: Path
    facts: Mapping[str, Any]
    files: Sequence[tuple[str, bytes]]
    start: int
    lock: str


_made: dict[Making, str] = {}


def note_on_making(making: Making) -> tuple[str, ...]:
    """Return a sentence on caches that this process has made so, if it has made any."""
    return (_made[making],) if making in _made else ()


def with_caches(splits: Mapping[str, Files], making: Making) -> dict[str, Files]:
    """Return the files of the splits with their caches, which are made if they are not there yet.

    UsageError for a file that cannot be decoded, and for a place that cannot be written or has no room for all of them.
    """
    planned = {split: _planned(split, files, making) for split, files in splits.items() if len(files)}
    cached: dict[str, CachedImages] = {}
    made = False
    for split, one in planned.items():
        rest = [other for other in planned.values() if other is one or not other.path.exists()]
        rows = read_rows(one.path, one.facts)
        if rows is None:
            rows, made = _make_rows(one, rest, making), True
        cached[split] = CachedImages(one.path, making.caching.kind, rows)
    if made:
        _made[making] = note_on_caches([one.path for one in planned.values()], making.caching)
    return {split: replace(files, cached=cached.get(split)) for split, files in splits.items()}


def _planned(split: str, files: Files, making: Making) -> _Planned:
    names = [os.path.abspath(path) for path in files.paths]  # noqa: PTH100, a Path for each file would double the time
    root = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120
    hashes = file_hashes(names, making.verify)
    facts = cache_facts(split, root, names, hashes, making)
    place = _digest({"root": root} | {name: value for name, value in facts.items() if name not in ("images", "content")})
    path = cache_folder(making.caching) / f"{split}-{place}-{facts['content']}.arrow"
    return _Planned(path, facts, [*zip(names, hashes, strict=True)], len(root) + 1, f".{split}-{place}")


def _make_rows(planned: _Planned, missing: Sequence[_Planned], making: Making) -> Tensor:
    """Return the rows of a cache, which is made if no other process does it. `missing`: all that there has to be room for."""
    path, caching = planned.path, making.caching
    with _one_message(path, caching), _locked(path.parent, planned.lock):
        rows = read_rows(path, planned.facts)  # again: another process may have made it meanwhile
        if rows is None:
            remove_partials(path.parent, planned.lock)
            files = [file for one in missing for file in one.files]
            refuse_full_disk([one.path for one in missing], files, caching, making.channels, making.decoding)
            _make(planned, making)
            rows = read_rows(path, planned.facts)
            _remove_others(path, planned.lock[1:])
    if rows is None:
        raise UsageError(f"{path}: what was written there cannot be read again. Name another folder with data.cache_dir=FOLDER.")
    return rows


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


def _make(planned: _Planned, making: Making) -> None:
    path = planned.path
    partial = path.with_name(f".{path.name}.partial")
    names = (os.fsencode(name[planned.start :]).decode(errors="backslashreplace") for name, _ in planned.files)
    try:
        write_cache(partial, planned.facts, zip(names, _images(planned.files, making), strict=True))
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
    """Remove the caches of files that lay in the same place before."""
    for other in path.parent.glob(f"{prefix}-*.arrow"):
        if other != path:
            with suppress(OSError):
                other.unlink()


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
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
