"""Pre-processing: the mean that is subtracted from each channel and the std that it is divided by.

A histogram of the bytes holds all that mean and variance need, as integers: the statistics are exact up to one rounding.
Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from train.data.contracts import Arrays

Kind: TypeAlias = Literal["none", "zero_center", "standardize"]

CHUNK = 256
"""Images per histogram call. This many stay in the processor's cache, which is twice as fast as all at once."""


MAX_SHOWN = 16


@dataclass(frozen=True)
class Preprocess:
    """The map x -> (x - `mean`) / `std` per channel, with x in [0, 1] where the image was uint8, unchanged where it was float.

    `none` has mean 0 and std 1, `zero_center` the training images' mean and std 1, `standardize` their mean and std. A channel
    that is the same everywhere keeps std 1. The std is the population's (divided by n). Fitted on the training split, applied to
    all.
    """

    kind: Kind
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return a new float32 tensor in `memory_format`, on the same device, from uint8 or float [N, C, H, W]."""
        out = images.to(torch.float32, copy=True)  # changing the layout of floats afterwards is faster than of bytes here
        rows = _rows_of_channels_last(out)
        width = 0 if rows is None else out.shape[3]
        scale, shift = _affine(self, images.dtype == torch.uint8, images.device, width)
        values = out if rows is None else rows
        if scale is not None:
            values.mul_(scale)
        if shift is not None:
            values.add_(shift)
        return out.contiguous(memory_format=memory_format)

    def describe(self) -> dict[str, object]:
        """Return kind and statistics as plain values; without those of each channel where there are more than `MAX_SHOWN`."""
        few = len(self.mean) <= MAX_SHOWN
        statistics = {"mean": list(self.mean), "std": list(self.std)} if few else {}
        return {"kind": self.kind, "channels": len(self.mean), **statistics}


def fit_pixels(kind: Kind, train: Arrays) -> Preprocess:
    """Fit the pre-processing of `kind` to a training split in memory."""
    if train.images.dtype == torch.uint8:
        return preprocess_from_histogram(kind, channel_histogram(train.images))
    channels = (train.images[:, channel].double() for channel in range(train.images.shape[1]))
    return _of_kind(kind, [(values.mean().item(), values.std(correction=0).item()) for values in channels])


def channel_histogram(images: Tensor) -> Tensor:
    """Count each byte value in each channel: uint8 [N, C, H, W] -> int64 [C, 256]. Counts of parts add up."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in images.split(CHUNK):
        for channel, row in enumerate(counts):
            row += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    return counts


def preprocess_from_histogram(kind: Kind, counts: Tensor) -> Preprocess:
    """Fit the pre-processing of `kind` to the `channel_histogram` of the training images."""
    moments: list[tuple[float, float]] = []
    for row in counts.tolist():
        n = sum(row)
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        moments.append((first / (255 * n), math.sqrt(n * second - first * first) / (255 * n)))
    return _of_kind(kind, moments)


def _of_kind(kind: Kind, moments: list[tuple[float, float]]) -> Preprocess:
    mean = tuple(0.0 if kind == "none" else mean for mean, _ in moments)
    std = tuple(std if kind == "standardize" and std > 0 else 1.0 for _, std in moments)
    return Preprocess(kind, mean, std)


def _rows_of_channels_last(images: Tensor) -> Tensor | None:
    """Return images whose channels lie innermost as [N, H, W * C], which shares their memory; None for any others.

    A factor of each channel is then a row: torch steps through three channels one by one, and through a row with vector
    instructions."""
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return None
    return images.permute(0, 2, 3, 1).flatten(2)


@lru_cache(maxsize=64)
def _affine(preprocess: Preprocess, is_byte: bool, device: torch.device, width: int) -> tuple[Tensor | None, Tensor | None]:
    """Return factor and summand on `device`, None where they change nothing: [C, 1, 1], or [width * C] of a row if width > 0.

    Cached, because a copy to a GPU in each step would make the host wait."""
    unit = 255 if is_byte else 1
    scale = [1 / (unit * std) for std in preprocess.std]
    shift = [-mean / std for mean, std in zip(preprocess.mean, preprocess.std, strict=True)]

    def of_channels(values: list[float]) -> Tensor:
        column = torch.tensor(values, dtype=torch.float64).to(torch.float32).to(device)
        return column.repeat(width) if width else column.view(-1, 1, 1)

    return None if set(scale) == {1.0} else of_channels(scale), None if set(shift) <= {0.0} else of_channels(shift)
