"""The contract of a data set: what is known before it is loaded, and its splits afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from train.parts.contracts import Framing, Shape


@dataclass(frozen=True)
class Arrays:
    """Images that fit in memory. `images`: uint8, or float32 taken as they are (noise), [N, C, H, W]; `labels`: int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Arrays:
        """Return the images at `indices`, in this order."""
        return Arrays(self.images.index_select(0, indices), self.labels[indices])


DecoderName: TypeAlias = Literal["pillow", "torchcodec", "turbojpeg"]

DRAFT_MARGIN = 2.0
"""The usual margin: the difference to the full decode stays at JPEG's own noise (1.4 of 255 rms on 1/f noise; at 1 it is 4.6 and
shows as aliasing)."""


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels.

    `draft`: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least this many times the pixels a side that
    are needed; None: never."""

    decoder: DecoderName = "pillow"
    draft: float | None = DRAFT_MARGIN


CacheKind: TypeAlias = Literal["uint8", "jpeg"]


@dataclass(frozen=True)
class CachedImages:
    """Images that are kept in one file, smaller than they were. `kind`: as pixels or as JPEGs.

    `rows`: int64 [N, 7]: where the bytes of an image begin, their number, height and width of the image, height and width of what
    it was made from, and its checksum."""

    path: Path
    kind: CacheKind
    rows: Tensor


@dataclass(frozen=True)
class Files:
    """Image files, decoded when a batch needs them. `labels`: int64 [N]; `decoding`: how; `cached`: read instead, if not None."""

    paths: tuple[Path, ...]
    labels: Tensor
    decoding: Decoding = Decoding()
    cached: CachedImages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Files:
        """Return the images at `indices`, in this order."""
        cached = self.cached and replace(self.cached, rows=self.cached.rows[indices])
        paths = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices], cached=cached)


Source: TypeAlias = Arrays | Files


@dataclass(frozen=True)
class Splits:
    """The splits of a data set.

    `val` is None until `split_validation` takes it out of `train`, unless the data set brings its own. `drawn`: the images follow
    from the settings of the data set alone; nothing was read."""

    train: Source
    test: Source
    val: Source | None = None
    drawn: bool = False


class Dataset(Protocol):
    """The return value of a choice of the config group `data`. Constructing one reads no images."""

    shape: Shape
    """(C, H, W) of the images as `load` gives them; for image files, as they leave the default framing."""
    class_names: tuple[str, ...]

    def load(self) -> Splits:
        """Read the data, or download it where allowed. UsageError, naming the places searched, when that fails."""
        ...


@runtime_checkable
class Framed(Protocol):
    """A data set of image files. `framing` brings them to `shape` where the augmentation has no framing of its own."""

    framing: Framing


@runtime_checkable
class Decoded(Protocol):
    """A data set of image files that can be decoded in several ways."""

    def decoding_facts(self) -> Mapping[str, Any]:
        """Return how they are decoded, as plain values; empty for the usual way."""
        ...


@runtime_checkable
class Noted(Protocol):
    """A data set with something to tell the user. `notes`: sentences, such as on what was left out."""

    notes: tuple[str, ...]


def noted(dataset: Dataset) -> tuple[str, ...]:
    """Return the notes of a data set; most have none."""
    return dataset.notes if isinstance(dataset, Noted) else ()


@dataclass(frozen=True)
class MixedLabels:
    """The other label of each image that is mixed of two, int64 [N], and the `share` of its own, float32 [N]; on the device."""

    others: Tensor
    share: Tensor


@dataclass(frozen=True)
class Batch:
    """Images and labels as the model receives them.

    `images`: float32 [N, C, H, W] on the device, augmented and pre-processed; `labels`: int64 [N] on the device; `mixed`: of
    an augmentation that mixes images."""

    images: Tensor
    labels: Tensor
    mixed: MixedLabels | None = None


class PendingBatch(Batch):
    """A batch that is made of a few numbers: when somebody looks at it, or by kernels of a captured step.

    `inputs`: those numbers on the device, such as the indices of the images and what the augmentation drew. `make`: returns the
    batch, by kernels alone. It is the same function for all batches of a reader."""

    def __init__(self, make: Callable[[Mapping[str, Tensor]], Batch], inputs: Mapping[str, Tensor]) -> None:
        vars(self).update(make=make, inputs=inputs)  # the attributes of a frozen dataclass cannot be set

    make: Callable[[Mapping[str, Tensor]], Batch]
    inputs: Mapping[str, Tensor]

    @cached_property
    def made(self) -> Batch:
        return self.make(self.inputs)

    @property
    def images(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.made.images

    @property
    def labels(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.made.labels

    @property
    def mixed(self) -> MixedLabels | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.made.mixed
