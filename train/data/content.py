"""What a data set holds, as plain values: its classes, and for each split the number and a hash of the images of each class.

Where the data lie does not enter. `train.store.inputs` makes the id of it that runs record, and says how two data sets differ.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.data.contracts import Arrays, Files, Source, Splits
from train.data.file_hashes import file_hashes

Content = dict[str, Any]
LENGTH = 16
"""Hexadecimal digits of a hash."""


def content_of(splits: Splits, class_names: Sequence[str], verify: bool = False) -> Content:
    """Return the classes in the order of their labels, and the splits as the data set gives them.

    A split has the number of its `images`, that of each class (`counts`), a hash of the images of each class (`contents`) and one
    of the labels in their order (`order`). The hash of files covers their names within the folder of the class, and their bytes.
    Of images that were drawn, not read, the numbers alone count: their bits follow from settings, but may differ between CPUs.
    `verify`: see `file_hashes`. UsageError naming a file that cannot be read.
    """
    sources = {"train": splits.train, "val": splits.val, "test": splits.test}
    classes = len(class_names)
    return {
        "classes": list(class_names),
        "splits": {
            name: _counts(source, classes) | ({} if splits.drawn else _hashes(source, classes, verify))
            for name, source in sources.items()
            if source is not None
        },
    }


def _counts(source: Source, classes: int) -> Content:
    return {"images": len(source), "counts": torch.bincount(source.labels, minlength=classes).tolist()}


def _hashes(source: Source, classes: int, verify: bool) -> Content:
    members = [torch.nonzero(source.labels == label).flatten() for label in range(classes)]
    if isinstance(source, Files):
        names = [os.path.abspath(path) for path in source.paths]  # noqa: PTH100, a Path for each file would double the time
        hashes = file_hashes(names, verify)
        contents = [_hash_of_files([(names[index], hashes[index]) for index in chosen.tolist()]) for chosen in members]
    else:
        contents = [_hash_of_images(source, chosen) for chosen in members]
    return {"contents": contents, "order": _digest(_bytes(source.labels))}


def _hash_of_files(files: Sequence[tuple[str, bytes]]) -> str:
    """Hash the names of the files, without the folder that they have in common, and the hashes of their contents."""
    start = len(os.path.commonpath({os.path.dirname(name) for name, _ in files})) if files else 0  # noqa: PTH120
    return _digest(b"".join(os.fsencode(name[start:]) + b"\0" + content for name, content in files))


def _hash_of_images(source: Arrays, chosen: Tensor) -> str:
    images = source.images.index_select(0, chosen)
    return _digest(f"{images.dtype} {list(images.shape[1:])} ".encode(), _bytes(images))


def _bytes(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:LENGTH]
