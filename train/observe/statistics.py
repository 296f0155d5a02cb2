"""The numbers that describe one tensor: functions of device tensors that return device tensors, float32 without dimensions.

Shapes: y an output of any rank with N images first and C channels in one dimension. All sums are over float32, whatever the
type of y. Non-finite values are values like any other: they make means and stds NaN (or infinite), and are counted beside.

A CPU takes many times longer for `torch.var_mean`, for `square` and for a sum over booleans than for the same in plain float32
passes over a buffer that is reused; hence `work.mul_(work)` and `out=`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

SATURATED = {"tanh": (0.0, 0.97), "sigmoid": (0.5, 0.47)}
"""Activation -> (centre, distance): an output further from the centre than this is saturated. tanh beyond 0.97 has a slope below
0.06 of its largest; sigmoid below 0.03 or above 0.97 has one below 0.12 of its largest."""

ACTIVATION = ("mean", "std", "dead", "zero", "saturated", "nonfinite")
ACTIVATION_BY_CHANNEL = ("channel_mean_sq", "channel_var")
GRADIENT = ("std", "nonfinite")


LARGEST_POWER = 100
"""Of 2, within what float32 holds along with its inverse."""


def activation_statistics(y: Tensor, channel_dim: int, function: str, wanted: Collection[str]) -> dict[str, Tensor]:
    """Those of ACTIVATION and ACTIVATION_BY_CHANNEL that are wanted and that y has.

    mean, std: over all values (std divides by their number). zero: share of values that are exactly 0. nonfinite: how many are
    NaN or infinite. channel_mean_sq, channel_var: squared mean and variance of each channel, averaged over the channels; they
    add up to the mean square. Only where `function` is an activation: dead: share of channels that are exactly 0 everywhere in
    the batch; of tanh and sigmoid, saturated: share of values beyond SATURATED.
    """
    x = y.float()
    others = [dim for dim in range(x.ndim) if dim != channel_dim]
    unit = magnitude(x)
    work = x * (1 / unit)
    by_channel = work.mean(others, keepdim=True) if others else work.clone()
    mean = by_channel.mean()
    work.sub_(by_channel)
    variances = work.mul_(work).mean(others) if others else work.mul_(work)
    within = variances.mean()
    found = {
        "mean": mean * unit,
        "std": (within + (by_channel - mean).square().mean()).sqrt() * unit,
        "channel_mean_sq": by_channel.square().mean() * unit * unit,
        "channel_var": within * unit * unit,
    }
    if function in SATURATED and "saturated" in wanted:
        centre, distance = SATURATED[function]
        found["saturated"] = torch.sub(x, centre, out=work).abs_().gt_(distance).mean()
    if "zero" in wanted or "dead" in wanted:
        nonzero = torch.ne(x, 0, out=work).sum(others) if others else torch.ne(x, 0, out=work)
        found["zero"] = (x.numel() - nonzero.sum()) / x.numel()
        if function:
            found["dead"] = (nonzero == 0).float().mean()
    if "nonfinite" in wanted:
        found["nonfinite"] = count_nonfinite(x, work)
    return {name: value for name, value in found.items() if name in wanted}


def gradient_statistics(gradient: Tensor, scale: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """Those of GRADIENT that are wanted. std: over all values, divided by the loss `scale` that the gradient contains."""
    x = gradient.float()
    found = {"std": standard_deviation(x) / scale}
    if "nonfinite" in wanted:
        found["nonfinite"] = count_nonfinite(x)
    return {name: value for name, value in found.items() if name in wanted}


def magnitude(x: Tensor) -> Tensor:
    """The order of magnitude of x [N, ...]: a power of 2 next to the largest absolute value in an eighth of it; 1 where that is 0
    or not finite.

    Sums and squares are taken of values divided by it: squares in float32 are 0 below 1e-23 and infinite above 1e19, which
    signals reach that fade or explode through twenty layers. A power of 2, so that no bit of any other signal changes; and as
    float32 holds squares over 38 orders of magnitude, an eighth is enough.
    """
    some = x[: -(-len(x) // 8)] if x.ndim else x
    peak = torch.maximum(some.amax(), -some.amin())
    power = torch.frexp(peak).exponent.clamp(-LARGEST_POWER, LARGEST_POWER)
    return torch.where(peak.isfinite() & (peak > 0), torch.ldexp(torch.ones_like(peak), power), 1.0)


def count_nonfinite(x: Tensor, work: Tensor | None = None) -> Tensor:
    """x - x is NaN exactly where x is NaN or infinite. Above 2^24 the count is rounded, being a float.
    `work` is overwritten."""
    return torch.sub(x, x, out=work).ne_(0).sum()


def standard_deviation(x: Tensor) -> Tensor:
    """Over all values, dividing by their number."""
    x = x.float()
    unit = magnitude(x)
    work = x * (1 / unit)
    work.sub_(work.mean())
    return work.mul_(work).mean().sqrt() * unit


def euclidean_norm(x: Tensor) -> Tensor:
    """Euclidean norm over all values. Not `vector_norm`, which adds up the squares of a long tensor with less care."""
    x = x.float()
    unit = magnitude(x)
    work = x * (1 / unit)
    return work.mul_(work).sum().sqrt() * unit


def similarity(y: Tensor) -> Tensor:
    """Mean cosine between the representations of two different images of y [n, ...]: 1 where all images look the same.

    Of unit vectors u_i: (|sum u_i|^2 - n) / (n (n - 1)), which is the mean over all pairs without forming them. NaN where an
    image's representation is 0 or there is one image only.
    """
    n = len(y)
    in_memory_order = y if y.is_contiguous() or y.ndim < 3 else y.movedim(1, -1)  # flattening channels_last would copy
    x = in_memory_order.float().flatten(1)
    x = x * (1 / magnitude(x))
    total = (x / (x * x).sum(1, keepdim=True).sqrt()).sum(0)
    return ((total * total).sum() - n) / (n * (n - 1)) if n > 1 else x.new_tensor(float("nan"))
