"""The forward pass of a run on several devices: its backward pass leaves the mean of all ranks' gradients on each of them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from train.world import World
from train.world.norm import synchronized

BUCKET_MB = 25
"""torch's default, stated since the sizes of the buckets decide the order of sums."""


class DistributedForward:
    """Calls `model` through torch's DistributedDataParallel. Hooks on the model and its parts are called as ever.

    It looks for parameters without a gradient in every step: a model may freeze some on the way, and only so the buckets of
    gradients, and with them the order of sums, stay the same from the first step on, also after the run was resumed.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model, self.world = model, world
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the argument has another name in newer versions of torch
            self._parallel = DistributedDataParallel(
                _WithSpare(model), broadcast_buffers=False, find_unused_parameters=True, bucket_cap_mb=BUCKET_MB
            )

    def __call__(self, images: Tensor) -> Tensor:
        with synchronized(self.model, self.world):
            return self._parallel(images)


class _WithSpare(nn.Module):
    """A model, and a parameter without a use: where every parameter has one, torch prints that it looked in vain."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.spare = nn.Parameter(torch.zeros(1, device=next(model.parameters()).device))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def share_buffers(model: nn.Module, world: World) -> None:
    """Make the buffers equal on all ranks after a train step: the mean of batch norms' averages, rank 0's for all others.

    The running averages of norms that took their statistics over all ranks are equal already.
    """
    if world.is_alone:
        return
    averages, known = list[Tensor](), set[int]()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            known |= {id(buffer) for buffer in module.buffers(recurse=False)}
            if not getattr(module, "sync", False):
                averages += [buffer for buffer in (module.running_mean, module.running_var) if buffer is not None]
    world.average(averages)
    world.copy_first([buffer for buffer in model.buffers() if id(buffer) not in known])
