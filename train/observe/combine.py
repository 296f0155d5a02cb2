"""What is measured of the parts of a batch, on several devices, as one observation of the whole batch.

All parts are of one size. What the ranks measured comes together in one collective per observation, see `MeasurementBuffer.read`.
Histograms are those of rank 0's part: a sample of the batch, as those of large tensors are anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.tags import join

PART = "part_"
"""The beginning of the names of what a rank measures for `combined` alone."""

MEANS = ("activation_mean", "activation_zero", "activation_saturated")
SUMS = ("activation_nonfinite", "gradient_nonfinite")


@dataclass(frozen=True)
class Measured:
    """What one rank measured. `scalars`: by (statistic, layer); `rows`: by tag."""

    scalars: Mapping[tuple[str, str], float]
    rows: Mapping[str, Sequence[float]]


@torch.no_grad()
def channel_parts(y: Tensor, channel_dim: int) -> Tensor:
    """Return the mean of each channel, and how many of its values are not 0, float32 [2 C]."""
    x = y.float()
    others = [dim for dim in range(x.ndim) if dim != channel_dim]
    return torch.cat((x.mean(others), (x != 0).float().sum(others)))


def combined(ranks: Sequence[Measured]) -> Measured:
    """Return the measurements of the whole batch. What does not depend on the batch is that of the first rank."""
    first = ranks[0]
    scalars = {
        (statistic, layer): _of_whole(statistic, layer, ranks)
        for statistic, layer in first.scalars
        if not statistic.startswith(PART)
    }
    return Measured(scalars, {tag: row for tag, row in first.rows.items() if not tag.startswith(PART)})


def _of_whole(statistic: str, layer: str, ranks: Sequence[Measured]) -> float:
    values = [rank.scalars[statistic, layer] for rank in ranks]
    if statistic in SUMS:
        return math.fsum(values)
    if statistic in MEANS:
        return _mean(values)
    if statistic == "activation_std":
        return _std(values, [rank.scalars["activation_mean", layer] for rank in ranks])
    if statistic == "gradient_std":  # each rank's loss is the mean over its part
        return _std(values, [rank.scalars[f"{PART}gradient_mean", layer] for rank in ranks]) / len(ranks)
    if statistic in ("activation_dead", "activation_channel_mean_sq", "activation_channel_var"):
        rows = torch.tensor([rank.rows[join(f"{PART}channels", layer)] for rank in ranks], dtype=torch.float64)
        return _of_channels(statistic, values, *rows.chunk(2, dim=1))
    return values[0]


def _of_channels(statistic: str, values: Sequence[float], means: Tensor, nonzero: Tensor) -> float:
    """Return a statistic of the channels. `means`, `nonzero`: [ranks, C]."""
    if statistic == "activation_dead":
        return float((nonzero.sum(0) == 0).double().mean())
    mean = means.mean(0)
    if statistic == "activation_channel_mean_sq":
        return float(mean.square().mean())
    return _mean(values) + float((means - mean).square().mean())


def _std(stds: Sequence[float], means: Sequence[float]) -> float:
    """Return the std over all values from those of equal parts."""
    mean = _mean(means)
    return math.sqrt(_mean([std * std for std in stds]) + _mean([(part - mean) ** 2 for part in means]))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
