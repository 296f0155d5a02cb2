"""Nothing is followed out of a folder, also when what lies in it is exchanged between the check and the use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from train.store.inside import Folder

SECRET, OWN = b"outside", b"inside"
ROUNDS = 1500
ROUNDS_TO_DISK = 100

USES: dict[str, Callable[[Folder], object]] = {
    "read": lambda folder: folder.read("file", 100),
    "tail": lambda folder: folder.tail("file", 100),
    "append": lambda folder: append(folder),
    "update": lambda folder: os.close(folder.update("file")),
    "write": lambda folder: folder.write("file", OWN),
    "remove": lambda folder: folder.remove("file"),
    "move": lambda folder: folder.move("file", folder, "moved"),
    "remove folder": lambda folder: Folder(folder.top).remove_folder("sub"),
}


def append(folder: Folder) -> None:
    with folder.append("file") as file:
        file.write(b"!")


@contextmanager
def exchanging(replace: list[Callable[[Path], object]], path: Path) -> Iterator[None]:
    """Put one thing after the other at `path` in a thread."""
    ended = threading.Event()

    def loop() -> None:
        spare = path.with_name(f"spare {path.name}")
        while not ended.is_set():
            for make in replace:
                with suppress(OSError):
                    make(spare)
                    if path.is_dir() and not path.is_symlink():
                        path.rename(path.with_name("old"))
                    spare.rename(path)
                clear(path.with_name("old"))
                clear(spare)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clear(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        for inner in list(path.iterdir()) if not path.is_symlink() else []:
            inner.unlink()
        if not path.is_symlink():
            path.rmdir()


def folder_with_file(path: Path) -> None:
    path.mkdir()
    (path / "file").write_bytes(OWN)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("exchanged", ["file", "folder"])
def test_what_is_exchanged_meanwhile_leads_nowhere_else(use: str, exchanged: str, tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    top.mkdir()
    folder_with_file(top / "sub")
    makers: list[Callable[[Path], object]]
    if exchanged == "file":
        path = top / "sub" / "file"
        makers = [
            lambda spare: spare.write_bytes(OWN),
            lambda spare: spare.symlink_to(outside / "file"),
            os.mkfifo,
            lambda spare: spare.hardlink_to(outside / "file") if use not in ("read", "tail") else None,
        ]
    else:
        path = top / "sub"
        makers = [folder_with_file, lambda spare: spare.symlink_to(outside)]
    returned = set()
    with exchanging(makers, path):
        for _ in range(ROUNDS_TO_DISK if use == "write" else ROUNDS):
            with suppress(OSError):
                returned.add(USES[use](Folder(top, ("sub",))))
    assert (outside / "file").read_bytes() == SECRET
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert SECRET not in returned
