"""Histograms of the values of one tensor, counted on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 64
LIMIT = 2**20


@dataclass(frozen=True)
class Histogram:
    """Bin counts: `counts[i]` values lie in [edges[i], edges[i + 1]); the last bin includes its upper edge."""

    tag: str
    edges: Sequence[float]
    counts: Sequence[float]


def bin_counts(y: Tensor) -> Tensor:
    """Return [2 + BINS] float32 on the device of y [N, ...]: minimum, maximum and the counts of BINS equal bins between them.

    Only finite values count; if there are none, the first two numbers are infinite. A tensor of more than LIMIT values is
    represented by its first images, which are as random as the whole batch.
    """
    per_image = max(y[0].numel(), 1)
    x = y[: max(LIMIT // per_image, 1)].float().flatten()
    finite = torch.isfinite(x)
    low = torch.where(finite, x, torch.inf).amin()
    high = torch.where(finite, x, -torch.inf).amax()
    half = torch.where(low == high, 0.5, 0.0)  # if all values are equal: a bin of width 0 cannot be drawn
    low, high = low - half, high + half
    index = ((x - low) * (BINS / (high - low))).clamp(0, BINS - 1)
    index = torch.where(finite, index, BINS).long()
    # Integer sums are bit-exact in any order; torch.histc has no deterministic CUDA kernel, and bincount waits for the GPU.
    ones = torch.ones(1, dtype=torch.int64, device=x.device).expand_as(index)
    counts = torch.zeros(BINS + 1, dtype=torch.int64, device=x.device).scatter_add_(0, index, ones)
    return torch.cat([torch.stack([low, high]), counts[:BINS].float()])


def histogram_from_counts(tag: str, row: Sequence[float]) -> Histogram:
    """Return the histogram for a row of `bin_counts` that was copied to the host."""
    low, high, *counts = row
    width = (high - low) / len(counts)
    return Histogram(tag, [low + width * i for i in range(len(counts))] + [high], counts)
