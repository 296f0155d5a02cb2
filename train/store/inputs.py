"""What goes into a run besides its configuration: the content of its data, and code that is neither ours nor torch's.

A run records the id of its data and the versions of that code in status.json, and the content of the data in data.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.store.files import DATA_FILE, write_json
from train.store.stored import read_stored

SHOWN = 4
"""The number of differences that a sentence lists."""


@dataclass(frozen=True)
class Inputs:
    """What goes into a run besides its configuration.

    `data`: as `train.data.content.content_of` returns it; `code`: module -> a hash of its source, or package -> its version.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_id(self) -> str:
        """Twelve hexadecimal digits, the same for the same data wherever they lie; empty for unknown data."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:12] if self.data else ""


def write_data(folder: Path, inputs: Inputs) -> None:
    """Write data.json into a run folder."""
    write_json(folder / DATA_FILE, inputs.data)


def read_data(folder: Path) -> Mapping[str, Any]:
    """Return the content of data.json; empty if there is none or it is damaged."""
    try:
        return read_stored(folder, DATA_FILE)
    except (OSError, ValueError):
        return {}


def data_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return how the data of two runs differ, as in `train/cat: 20 images -> 25`; empty if they do not."""
    if old == new:
        return ""
    if not old or not new:
        return "not recorded in detail"
    found = []
    if old["classes"] != new["classes"]:
        found.append(f"classes: {some(old['classes'])} -> {some(new['classes'])}")
    for split in dict.fromkeys((*old["splits"], *new["splits"])):
        before, after = (_classes(content, split) for content in (old, new))
        changed = [_change(split, name, before, after) for name in after if before.get(name, after[name]) != after[name]]
        sizes = [_images(content, split) for content in (old, new)]
        if not changed and sizes[0] != sizes[1]:
            changed = [f"{split}: {sizes[0]} -> {sizes[1]}"]
        found += changed or ([f"{split}: the images are in another order"] if _order(old, split) != _order(new, split) else [])
    return some(found, "; ") or "in a way that their records do not show"


def without_class(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the content without the hashes of the images of one class; their numbers stay."""
    index = content["classes"].index(name)
    splits = {
        split: found | {"contents": ["" if i == index else digest for i, digest in enumerate(found.get("contents", ()))]}
        for split, found in content["splits"].items()
    }
    return dict(content) | {"splits": splits}


def _classes(content: Mapping[str, Any], split: str) -> dict[str, tuple[int, str]]:
    """Return class -> the number and the hash of its images."""
    found = content["splits"].get(split, {})
    counts = found.get("counts", [])
    return dict(zip(content["classes"], zip(counts, found.get("contents", [""] * len(counts)), strict=False), strict=False))


def _change(split: str, name: str, before: Mapping[str, tuple[int, str]], after: Mapping[str, tuple[int, str]]) -> str:
    source = next((other for other, images in before.items() if images == after[name] and images[1]), None)
    if source is not None:
        return f"{split}/{name} holds what {split}/{source} held"
    (old, _), (new, _) = before[name], after[name]
    return f"{split}/{name}: {old} images -> {new}" if old != new else f"{split}/{name}: other images or names of files ({new})"


def _images(content: Mapping[str, Any], split: str) -> str:
    found = content["splits"].get(split)
    return f"{found['images']} images" if found else "none"


def _order(content: Mapping[str, Any], split: str) -> Any:
    return content["splits"].get(split, {}).get("order")


def code_differences(old: Mapping[str, str] | None, new: Mapping[str, str]) -> str:
    """Return how the code of two runs differs, as in `mynorms: source 1a2b -> 3c4d`; empty if it does not.

    `old`: None if it is not recorded. Names that only one of them has are left out: what imports a module that another version
    does not import has changed, too.
    """
    if old is None:
        return f"the code of {some(sorted(new))} is not recorded" if new else ""
    return some(
        [f"{name}: {old[name]} -> {new[name]}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]], "; "
    )


def some(items: Sequence[str], separator: str = ", ") -> str:
    """Join the first items, with the number of the others."""
    rest = [f"{len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join([*items[:SHOWN], *rest])
