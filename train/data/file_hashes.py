"""The hashes of image files, kept in the user's cache, so that an unchanged file is read for its hash only once.

The cache has a file for each folder of images. An entry is a pair of 16 bytes: the key, a hash of a file's path, size, times of
change and inode, and the hash of its content. A file that changed within the last seconds is not kept: clocks of file systems are
coarse, so it could change once more and have the same times.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias, TypeVar

from filelock import FileLock

from train.errors import UsageError
from train.progress import step

HEADER = b"train: hashes of files, 1\n"
SIZE = 16
"""Bytes of a key and of a hash."""
SETTLED_S = 3.0
"""The age of a change from which on the times of a file tell it from the next one; the coarsest clock in use has two seconds."""
THREADS = 16
CHUNK = 64
MANY = 1000
"""Fewer files are read twice by processes that start together, rather than once while one of them waits."""

Hashes: TypeAlias = dict[bytes, bytes]
"""Key of a file -> hash of its content."""
_T = TypeVar("_T")


def user_cache() -> Path:
    """Return the program's folder in the user's cache: $XDG_CACHE_HOME/train, by default ~/.cache/train."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "train"


def file_hashes(names: Sequence[str], verify: bool = False) -> list[bytes]:
    """Return 16 bytes for each file, the start of the SHA-256 of its content. `verify`: read all, whatever the cache holds.

    `names`: absolute paths. UsageError naming a file that cannot be read.
    """
    keys = [key for key, _ in _for_each(_key, names)]
    cache = _cache_file(names)
    known: Hashes = {} if verify else _read(cache)
    if all(key in known for key in keys):
        return [known[key] for key in keys]
    with _locked(cache if len(keys) >= MANY else None):
        known = {} if verify else _read(cache)  # again: a process that has read the same files may have been waited for
        missing = {key: name for name, key in zip(names, keys, strict=True) if key not in known}
        began = time.time()
        known |= zip(missing, _for_each(_hash, list(missing.values())), strict=True)
        _write(cache, {key: known[key] for key in set(keys) - _unsettled(missing, began)})
    return [known[key] for key in keys]


def _unsettled(files: Mapping[bytes, str], began: float) -> set[bytes]:
    """Return the keys of the files that changed while they were read, or so shortly before that their times prove nothing."""
    after = _for_each(_key, list(files.values()))
    return {old for old, (new, changed) in zip(files, after, strict=True) if old != new or changed > began - SETTLED_S}


def _key(name: str) -> tuple[bytes, float]:
    """Return the key of a file and the time of its last change, in seconds since 1970."""
    stat = os.stat(name)  # noqa: PTH116, a Path for each file would double the time
    text = f"\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
    return hashlib.blake2b(os.fsencode(name) + text.encode(), digest_size=SIZE).digest(), stat.st_ctime


def _hash(name: str) -> bytes:
    with open(name, "rb", buffering=0) as file:  # noqa: PTH123
        return hashlib.sha256(file.read()).digest()[:SIZE]


def _for_each(call: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Return the result for each file. UsageError naming one that cannot be read."""
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            results: list[_T] = []
            for chunk in pool.map(lambda chunk: list(map(call, chunk)), chunks):
                results += chunk
                step("hashing", len(results), len(names))
            return results
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.") from error


def _cache_file(names: Sequence[str]) -> Path | None:
    """Return the file for images in these places; None for a user without a home, or without images."""
    try:
        place = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120
        return user_cache() / "hashes" / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
    except (RuntimeError, ValueError):
        return None


def _read(cache: Path | None) -> Hashes:
    """Return what the cache holds; nothing if it is not there or damaged."""
    try:
        content = cache.read_bytes() if cache else b""
    except OSError:
        return {}
    if not content.startswith(HEADER) or (len(content) - len(HEADER)) % (2 * SIZE):
        return {}
    starts = range(len(HEADER), len(content), 2 * SIZE)
    return {content[start : start + SIZE]: content[start + SIZE : start + 2 * SIZE] for start in starts}


def _write(cache: Path | None, hashes: Hashes) -> None:
    """Replace the file in the cache. A cache that cannot be written only costs time."""
    if cache is None or not hashes:
        return
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(HEADER + b"".join(key + hash for key, hash in hashes.items()))
        temporary.replace(cache)


@contextmanager
def _locked(cache: Path | None) -> Iterator[None]:
    lock = None
    if cache is not None:
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(cache.with_name(f"{cache.name}.lock"))
            lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
