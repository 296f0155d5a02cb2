"""Statistics of one tensor: functions from device tensors to device tensors, all float32 scalars.

Shapes: y is an output of any rank, with N images first and C channels in one dimension. All sums are in float32, whatever the
dtype of y. Non-finite values are not skipped: they make means and stds NaN (or infinite) and are also counted.

On a CPU, `torch.var_mean`, `square` and sums over booleans take many times longer than plain float32 passes over a reused
buffer; hence `work.mul_(work)` and `out=`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from train.observe.contracts import SATURATED

LARGEST_POWER = 100
"""Largest exponent of 2 that `magnitude` uses: float32 holds both 2**100 and its inverse."""

EXPONENT = 0x7F800000
"""The bits of a float32 that hold its exponent. Without the others it is a power of 2, or 0 for a subnormal number."""


def activation_statistics(y: Tensor, channel_dim: int, function: str, wanted: Collection[str]) -> dict[str, Tensor]:
    """Return the `wanted` statistics that are defined for y; their tags begin with `activation_` (`train.tags`).

    mean, std: over all values (std divides by their number). zero: share of values that are exactly 0. nonfinite: number of
    NaN or infinite values. channel_mean_sq, channel_var: squared mean and variance of each channel, averaged over the channels;
    they add up to the mean square. If `function` is an activation, dead: share of channels that are exactly 0 everywhere in the
    batch; for tanh and sigmoid, saturated: share of values beyond SATURATED.
    """
    x = y.float()
    other_dims = [dim for dim in range(x.ndim) if dim != channel_dim]
    unit = magnitude(x)
    work = x * unit.reciprocal()
    by_channel = work.mean(other_dims, keepdim=True) if other_dims else work.clone()
    mean = by_channel.mean()
    work.sub_(by_channel)
    variances = work.mul_(work).mean(other_dims) if other_dims else work.mul_(work)
    within = variances.mean()
    statistics = {
        "mean": mean * unit,
        "std": (within + (by_channel - mean).square().mean()).sqrt() * unit,
    }
    if "channel_mean_sq" in wanted:
        statistics["channel_mean_sq"] = by_channel.square().mean() * unit * unit
    if "channel_var" in wanted:
        statistics["channel_var"] = within * unit * unit
    if function in SATURATED and "saturated" in wanted:
        centre, distance = SATURATED[function]
        statistics["saturated"] = torch.sub(x, centre, out=work).abs_().gt_(distance).mean()
    if "zero" in wanted or "dead" in wanted:
        nonzero = torch.ne(x, 0, out=work).sum(other_dims) if other_dims else torch.ne(x, 0, out=work)
        statistics["zero"] = (x.numel() - nonzero.sum()) / x.numel()
        if function:
            statistics["dead"] = (nonzero == 0).float().mean()
    if "nonfinite" in wanted:
        statistics["nonfinite"] = count_nonfinite(x, work)
    return {name: value for name, value in statistics.items() if name in wanted}


def gradient_statistics(gradient: Tensor, scale: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """Return the `wanted` statistics; their tags begin with `gradient_`. std: over all values, divided by the loss `scale`."""
    x = gradient.float()
    statistics = {"std": standard_deviation(x) / scale}
    if "nonfinite" in wanted:
        statistics["nonfinite"] = count_nonfinite(x)
    return {name: value for name, value in statistics.items() if name in wanted}


def magnitude(x: Tensor) -> Tensor:
    """Return the order of magnitude of x [N, ...]: a power of 2 next to the largest absolute value in the first eighth of x, or 1
    where that value is 0 or not finite.

    Values are divided by it before they are summed or squared: float32 squares are 0 below 1e-23 and infinite above 1e19, which
    a signal that fades or explodes through twenty layers reaches. Dividing by a power of 2 is exact, so other signals keep every
    bit. One eighth of x is enough because float32 holds squares over 38 orders of magnitude.
    """
    return _power_of_two(_peak(x))


def _peak(x: Tensor) -> Tensor:
    return (x[: -(-len(x) // 8)] if x.ndim else x).abs().amax()


def _power_of_two(peak: Tensor) -> Tensor:
    """Return `magnitude` for peaks of any shape. Few operations, as each is a kernel: `frexp` and `where` take more."""
    usual = functional.threshold(torch.nan_to_num(peak, nan=0.5, posinf=0.5), 0, 0.5)  # what is 0 or not finite counts as 0.5
    below = (usual.view(torch.int32) & EXPONENT).view(torch.float32)
    return 2 * below.clamp(2.0 ** (-LARGEST_POWER - 1), 2.0 ** (LARGEST_POWER - 1))


def count_nonfinite(x: Tensor, work: Tensor | None = None) -> Tensor:
    """Count the NaN and infinite values of x: exactly there x - x is NaN. The count is a float, so it is rounded above 2^24.
    `work` is overwritten."""
    return torch.sub(x, x, out=work).ne_(0).sum()


def standard_deviation(x: Tensor) -> Tensor:
    """Return the std over all values, dividing by their number."""
    x = x.float()
    unit = magnitude(x)
    return _variance(x * unit.reciprocal()).sqrt() * unit


def standard_deviations(tensors: Sequence[Tensor]) -> Tensor:
    """Return the `standard_deviation` of each tensor, [n]. On a GPU, many together take fewer kernels."""
    return _roots(tensors, _variance)


def _variance(work: Tensor) -> Tensor:
    """Return the variance of all values of `work`, and overwrite it."""
    work.sub_(work.mean())
    return work.mul_(work).mean()


def euclidean_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all values of each tensor, [n]; more exactly than `vector_norm`, which sums the squares of
    long tensors less accurately."""
    return _roots(tensors, lambda work: work.mul_(work).sum())


def _roots(tensors: Sequence[Tensor], square: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the root of what `square` makes of each tensor, [n]. It gets the tensor divided by its magnitude, to overwrite."""
    if not tensors:
        return torch.empty(0)
    floats = [x.float() for x in tensors]
    units = _power_of_two(torch.stack([_peak(x) for x in floats]))
    squares = [square(x * inverse) for x, inverse in zip(floats, units.reciprocal().unbind(), strict=True)]
    return torch.stack(squares).sqrt() * units


def similarity(y: Tensor) -> Tensor:
    """Return the mean cosine between the representations of different images in y [n, ...]; 1 if all have the same direction.

    Computed from unit vectors u_i as (|sum u_i|^2 - n) / (n (n - 1)), the mean over all pairs without forming the pairs. NaN if
    an image's representation is 0 or there is only one image.
    """
    n = len(y)
    in_memory_order = y if y.is_contiguous() or y.ndim < 3 else y.movedim(1, -1)  # flattening channels_last would copy
    x = in_memory_order.float().flatten(1)
    x = x * magnitude(x).reciprocal()
    total = (x / (x * x).sum(1, keepdim=True).sqrt()).sum(0)
    return ((total * total).sum() - n) / (n * (n - 1)) if n > 1 else x.new_tensor(float("nan"))
