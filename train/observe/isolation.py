"""Running a model so that no trace of it is left: what makes observing change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def isolated(model: nn.Module, batch_statistics: bool = False) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards buffers, modes of all modules and the random state are as before.

    `batch_statistics`: norms with running averages use those of the batch nevertheless, as in training. At step 0 the averages
    are 0 and 1, and a network that is judged by them is one without norms.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with restored(model):
            for module, _ in modes:
                # Who keeps averages has buffers of floats. Not by `module.train`, which would switch on the dropout within.
                module.training = batch_statistics and any(b.is_floating_point() for b in module.buffers(recurse=False))
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Buffers and the random state are put back. The generator of an Apple GPU is not: each step seeds it anew."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)


def backward_isolated(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """A forward and backward pass in the model's present mode, for the hooks that watch it: no `.grad` is touched."""
    with restored(model):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(), parameters, allow_unused=True)
