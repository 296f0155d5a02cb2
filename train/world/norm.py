"""Batch norm over the parts of a batch that several ranks have. torch's SyncBatchNorm needs a GPU; this works on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.world import World


class RankedBatchNorm(_BatchNorm):
    """torch's batch norm, with `sync`: whether the statistics are those of all ranks, inside `synchronized`.

    Without it each rank has those of its part, and the running averages become the mean over the ranks after a step.

    A subclass calls `over` in training when `world` is set.
    """

    world: World | None = None

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, sync: bool = False) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.sync = sync

    def over(self, world: World, input: Tensor) -> Tensor:
        """Normalise in training by the mean and the variance over all ranks, in float32. torch's SyncBatchNorm needs a GPU."""
        x = input.float()
        dims, shape = [0, *range(2, x.ndim)], (1, -1) + (1,) * (x.ndim - 2)
        mean = world.mean(x.mean(dims))
        centred = x - mean.view(shape)
        variance = world.mean(centred.square().mean(dims))
        self._follow(mean.detach(), variance.detach(), world.size * input.numel() // self.num_features)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        y = y if self.weight is None else y * self.weight.view(shape)
        return (y if self.bias is None else y + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running averages by a batch of `count` values per channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)


def synchronizes(model: nn.Module) -> bool:
    """Return whether a model has batch norms with `sync`."""
    return any(isinstance(module, RankedBatchNorm) and module.sync for module in model.modules())


@contextmanager
def synchronized(model: nn.Module, world: World) -> Iterator[None]:
    """Let the batch norms with `sync` take their statistics over all ranks in forward passes inside the context."""
    norms = [module for module in model.modules() if isinstance(module, RankedBatchNorm) and module.sync]
    try:
        for norm in norms:
            norm.world = world
        yield
    finally:
        for norm in norms:
            norm.world = None
