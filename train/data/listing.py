"""What lies in a folder of images: the files of each split, one folder per class, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from train.data.contracts import Files
from train.data.folder_contents import FolderContent, FolderContents
from train.errors import UsageError
from train.progress import step

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}) | {
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".jp2"),
}
SHOWN = 5
"""The number of names that a message lists."""

SPLITS = ("train", "val", "test")
HIDDEN, OUTSIDE, NO_SUFFIX = "hidden", "outside the class folders", "without a suffix"
"""Kinds of files that are left out, besides those of a suffix that is none of an image."""


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of images: the files of each split, the classes, and sentences on what is left out."""

    files: dict[str, Files]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


_listed: dict[str | None, Listing] | None = None


@contextmanager
def listed_once() -> Iterator[None]:
    """List each folder once inside the block, for checks of many configurations.

    Every run asks for its files anew; of a folder that has not changed, `FolderContents` knows them."""
    global _listed
    before, _listed = _listed, {}
    try:
        yield
    finally:
        _listed = before


def list_folder(root: str | None) -> Listing:
    """Return what lies below `root`. UsageError as `image_folder`."""
    found = _listed.get(root) if _listed is not None else None
    if found is None:
        found = _listing(root)
        if _listed is not None:
            _listed[root] = found
    return found


def _listing(root: str | None) -> Listing:
    left_out: Counter[str] = Counter()
    try:
        folders = _split_folders(root)
        scanned = {name: scan(folder, left_out) for name, folder in folders.items()}
        _refuse_few_classes(root, folders["train"], scanned["train"])
    except OSError as error:  # a link to nowhere, or no permission
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.") from error
    class_names = tuple(scanned["train"])
    for name, found in scanned.items():
        _same_classes(folders["train"], set(class_names), folders[name], set(found))
    files = {name: files_of(found) for name, found in scanned.items()}
    return Listing(files, class_names, _left_out(folders, left_out))


def _split_folders(root: str | None) -> dict[str, Path]:
    """Return the folder of train and those of val and test that exist."""
    layout = "it must hold train/<class>/ with image files, and val/<class>/ or test/<class>/ or both"
    if root is None:
        raise UsageError(f"data.root is not set: data=image_folder reads a folder of yours; {layout}. Set data.root=FOLDER.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UsageError(f"data.root={root}: there is no such folder ({folder.absolute()}). Set data.root to a folder; {layout}.")
    found = {name: folder / name for name in SPLITS if (folder / name).is_dir()}
    if "train" not in found:
        raise UsageError(f"data.root={root}: it has no folder train/; {layout}.{_other_root(folder)}")
    if len(found) == 1:
        raise UsageError(f"data.root={root}: it has neither val/ nor test/; {layout}.{_other_root(folder)}")
    return found


def _other_root(folder: Path) -> str:
    """Return a sentence that names a folder in `folder` with the layout, as an unpacked archive leaves one; empty without one."""
    for inner in (folder / name for name in _folders(folder)):
        if "train" in (found := _folders(inner)) and ("val" in found or "test" in found):
            return f" {inner} has that layout: set data.root={inner}."
    return ""


def _refuse_few_classes(root: str | None, train: Path, classes: dict[str, list[str]]) -> None:
    """Raise UsageError when `train` has one class, or folders called as splits, as in an archive unpacked one folder too deep."""
    if len(classes) > 1 and not set(classes) <= set(SPLITS):
        return
    found = ", ".join(f"'{name}' ({len(paths)} images)" for name, paths in classes.items())
    first = train / next(iter(classes))
    inner = _folders(first)
    remedy = " Put the images of each class into a folder of their own."
    if len(inner) > 1:
        remedy = f" If the classes are {_some(inner)}, move these folders from {first} to {train}, and so in the other splits."
    raise UsageError(
        f"data.root={root}: training needs at least two classes, and {train} holds {found}.{_other_root(train.parent) or remedy}"
    )


def _left_out(splits: dict[str, Path], counts: Counter[str]) -> tuple[str, ...]:
    """Return one sentence that counts what is left out, by kind; none if everything is used."""
    root = splits["train"].parent
    kinds = counted(counts)
    if others := [name for name in _folders(root) if name not in splits]:
        kinds.append(f"the folder{'s' * (len(others) > 1)} {_some(others)}")
    return (f"left out of {root}: {', '.join(kinds)}",) if kinds else ()


def counted(left_out: Counter[str]) -> list[str]:
    return [f"{count:,} {kind}" for kind, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))]


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def scan(folder: Path, left_out: Counter[str]) -> dict[str, list[str]]:
    """Return class -> image files, both in the order of their names, and count other files in `left_out`."""
    classes = _folders(folder)
    if not classes:
        raise UsageError(f"{folder} has no folders: the images of each class go into a folder of their own, {folder}/<class>/.")
    others = {path.name for path in folder.iterdir()}.difference(classes)
    left_out.update(HIDDEN if name.startswith(".") else OUTSIDE for name in others)
    known, images, count = FolderContents(folder), dict[str, list[str]](), 0
    for name in classes:
        images[name] = sorted(_images(str(folder / name), left_out, known))
        count += len(images[name])
        step("listing", count)
    known.keep()
    without = [name for name, paths in images.items() if not paths]
    if without:
        known = " ".join(sorted(SUFFIXES))
        there = f" Left out: {', '.join(counted(left_out))}." if left_out else ""
        remedy = f"Add images ({known}), or remove the folders, in every split."
        raise UsageError(f"Classes without images in {folder}: {_some(without)}. {remedy}{there}")
    return images


def _images(folder: str, left_out: Counter[str], known: FolderContents) -> Iterator[str]:
    """Yield the image files in a folder and in those that it has."""
    content = known.content(folder, _content)
    left_out.update(content.left_out)
    for name in content.images:
        yield os.path.join(folder, name)  # noqa: PTH118, a Path per entry would double the time
    for name in content.folders:
        yield from _images(os.path.join(folder, name), left_out, known)  # noqa: PTH118


def _content(folder: str) -> FolderContent:
    content, left_out = FolderContent([], [], {}), Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
            if entry.name.startswith("."):
                left_out[HIDDEN] += 1
            elif entry.is_dir():
                content.folders.append(entry.name)
            elif suffix not in SUFFIXES:
                left_out[suffix or NO_SUFFIX] += 1
            elif entry.stat().st_size == 0:
                raise UsageError(f"{entry.path} is empty (0 bytes). Replace or remove the file.")
            else:
                content.images.append(entry.name)
    content.left_out.update(left_out)
    return content


def _same_classes(train: Path, expected: set[str], other: Path, found: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    parts = [f"{other} lacks {_some(missing)}"] if missing else []
    parts += [f"{train} lacks {_some(extra)}"] if extra else []
    if parts:
        raise UsageError(f"The splits must have the same classes, but {' and '.join(parts)}. Add or remove these folders.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def files_of(found: dict[str, list[str]]) -> Files:
    paths = tuple(Path(path) for names in found.values() for path in names)
    counts = torch.tensor([len(names) for names in found.values()])
    return Files(paths, torch.arange(len(found)).repeat_interleave(counts))
