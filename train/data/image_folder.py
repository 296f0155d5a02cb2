"""Images of any size in folders, one folder per class: ImageNet's layout and everybody's own photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval

from train.data.cache_build import Making, note_on_making, with_caches
from train.data.cached_image import Caching
from train.data.contracts import DRAFT_MARGIN, DecoderName, Decoding, Files, Splits
from train.data.decode import Region
from train.data.headers import check_headers
from train.data.jpeg import describe, refuse_missing
from train.data.listing import list_folder
from train.errors import UsageError
from train.parts.contracts import Shape

QUALITY = 95
"""Of the JPEGs of a cache, where nothing else is asked for."""


class CentreFraming:
    """The default `Framing` of an image folder: resize the short side to `short_side`, cut the centre square of `crop` pixels.

    It is the same in training and testing; nothing is drawn."""

    def __init__(self, short_side: int, crop: int) -> None:
        self.short_side = short_side
        self.crop = crop

    def train_region(self, generator: torch.Generator, height: int, width: int) -> Region:  # noqa: ARG002
        """Return the centre region, as in testing."""
        return self.test_region(height, width)

    def test_region(self, height: int, width: int) -> Region:
        """Return the centre region as (top, left, height, width) in pixels of the source."""
        side = self.crop * min(height, width) / self.short_side
        return (height - side) / 2, (width - side) / 2, side, side

    def size(self) -> tuple[int, int]:
        """Return the size of the result, (crop, crop)."""
        return self.crop, self.crop


@dataclass(frozen=True)
class Reading:
    """How the files of a folder are read: settings of `image_folder`, and those of all data sets that matter here."""

    channels: int = 3
    check: bool = True
    decoder: DecoderName = "pillow"
    draft: float | None = DRAFT_MARGIN
    cache: Literal["none", "uint8", "jpeg"] = "none"
    cache_side: int | None = None
    cache_quality: int = QUALITY
    cache_dir: str | None = None
    workers: int = 0
    verify: bool = False

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.decoder, self.draft)

    def making(self, short_side: int) -> Making | None:
        """Return how caches are made; None without any."""
        if self.cache == "none":
            return None
        caching = Caching(self.cache, self.cache_side or short_side, self.cache_quality, self.cache_dir)
        return Making(caching, self.channels, self.decoding, self.workers, self.verify)


class ImageFolder:
    """The data set that `image_folder` returns. `framing`: for readers whose augmentation has none."""

    def __init__(
        self,
        folders: Mapping[str, Files],
        class_names: tuple[str, ...],
        framing: CentreFraming,
        how: Reading,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.shape: Shape = (how.channels, *framing.size())
        self.class_names = class_names
        self.framing = framing
        self._left_out = notes
        self._check = how.check
        self._decoding = how.decoding
        self._making = how.making(framing.short_side)
        self._folders = {name: replace(files, decoding=how.decoding) for name, files in folders.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what it left out, and on caches that this process has made."""
        return (*self._left_out, *(() if self._making is None else note_on_making(self._making)))

    def decoding_facts(self) -> Mapping[str, Any]:
        """Return how the files are decoded and what of them is cached, for the fingerprint; empty for the usual way."""
        if self._making is None:
            return {} if self._decoding == Decoding() else describe(self._decoding)
        caching = self._making.caching
        quality = {"quality": caching.quality} if caching.kind == "jpeg" else {}
        return describe(self._decoding) | {"cache": caching.kind, "side": caching.side} | quality

    def load(self) -> Splits:
        """Return the files of the splits, with their caches if there are to be any: those that are missing are made.

        UsageError naming the first file whose header is broken, or which cannot be decoded for a cache."""
        if self._making is not None:
            folders = with_caches(self._folders, self._making)
        else:
            folders = self._folders
            if self._check:
                check_headers([path for files in folders.values() for path in files.paths])
        test = folders.get("test")
        val = folders.get("val")
        if test is None:
            test, val = val, None
        assert test is not None  # image_folder has checked that
        return Splits(folders["train"], test, val)


def image_folder(
    root: str | None = None,
    size: Annotated[int, Ge(1)] = 224,
    short_side: Annotated[int, Ge(1)] = 256,
    channels: Literal[1, 3] = 3,
    check: bool = True,
    decoder: DecoderName = "pillow",
    draft: Annotated[float, Ge(1)] | None = DRAFT_MARGIN,
    cache: Literal["none", "uint8", "jpeg"] = "none",
    cache_side: Annotated[int, Ge(1)] | None = None,
    cache_quality: Annotated[int, Interval(ge=1, le=100)] = QUALITY,
    cache_dir: str | None = None,
    workers: int = 0,
    verify: bool = False,
) -> ImageFolder:
    """Return a data set of the image files under `root/train/<class>/`, and `root/val/<class>/` or `root/test/<class>/` or both.

    With both, each is what its name says. With `val/` alone, as ImageNet comes, it is the test split, evaluated once,
    at the end, and `data.val_fraction` takes a validation split out of `train/`. Folders inside a class belong to it;
    names that start with a dot, and files that are no images by their suffix, are left out and counted in `notes`. Classes and
    files are in the order of their names.

    size, short_side: the default framing, `CentreFraming`; an augmentation that frames (`augment=multi_scale`) replaces it.
    channels: 3 for RGB, 1 for grey. check: read the header of every file in `load`, some 30 s per million files on a local disk.
    decoder, draft: see `Decoding`. cache: keep each image as pixels or as a JPEG of cache_quality, its short side cache_side
    pixels (None: short_side), in the folder cache_dir (None: the user's cache). workers: processes that make a cache; verify: see
    `file_hashes`.

    Constructing it reads names and file lengths only. UsageError, naming the folder or file and the remedy, for a missing root or
    split, a split with fewer than two classes, a class without images, classes that differ between the splits, empty files, and a
    crop larger than the short side, and for a decoder that is not installed.
    """
    if size > short_side:
        raise UsageError(f"data.size={size} does not fit into data.short_side={short_side}; lower the first or raise the second.")
    how = Reading(channels, check, decoder, draft, cache, cache_side, cache_quality, cache_dir, workers, verify)
    refuse_missing(decoder)
    found = list_folder(root)
    return ImageFolder(found.files, found.class_names, CentreFraming(short_side, size), how, found.notes)
