"""Running a model without leaving a trace in it, so that looking at a run does not change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def isolated(
    model: nn.Module, training: Callable[[nn.Module], bool] = lambda _: False, restore_random: bool = True
) -> Iterator[None]:
    """Put in training mode the modules for which `training` returns True, all others in evaluation mode.

    Restores buffers, the modes of all modules and the random state on exit; the last not where `restore_random` is false, as
    inside a captured step, which cannot read it.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with restored(model, restore_random):
            for module, _ in modes:
                module.training = training(module)  # not `module.train()`, which would enable dropout in submodules
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def has_averages(module: nn.Module) -> bool:
    """Return whether the module is a norm with running averages: no other module has buffers of floats.

    At step 0 the averages are 0 and 1, so a network evaluated with them behaves like one without norms.
    """
    return any(buffer.is_floating_point() for buffer in module.buffers(recurse=False))


@contextmanager
def restored(model: nn.Module, random: bool = True) -> Iterator[None]:
    """Restore buffers and, if `random`, the random state on exit. The generator of an Apple GPU is not restored: each step seeds
    it anew."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices, enabled=random):
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
