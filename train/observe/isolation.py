"""Running a model without leaving a trace in it, so that observing a run does not change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def isolated(model: nn.Module, batch_statistics: bool = False) -> Iterator[None]:
    """Put the model in evaluation mode; restore buffers, the modes of all modules and the random state on exit.

    `batch_statistics`: norms with running averages use batch statistics nevertheless, as in training. At step 0 the averages
    are 0 and 1, so a network evaluated with them behaves like one without norms.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with restored(model):
            for module, _ in modes:
                # Only modules with running averages have float buffers. Set the flag directly: `module.train()` would also
                # enable dropout in submodules.
                module.training = batch_statistics and any(b.is_floating_point() for b in module.buffers(recurse=False))
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore buffers and the random state on exit. The generator of an Apple GPU is not restored: each step seeds it anew."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in saved:
                    buffer.copy_(before)


def backward_isolated(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Run a forward and backward pass in the model's current mode for the hooks on it, without touching any `.grad`."""
    with restored(model):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(), parameters, allow_unused=True)
