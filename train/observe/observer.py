"""What happens inside the network, measured where it happens: hooks that live only on the steps that are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
STATISTICS = ("activation_mean", "activation_std")


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps happens at `step`: at 0, at multiples of `every` and at `last`.

    `every` = 0 is never.
    """
    return every > 0 and (step % every == 0 or step == last)


def observed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """By name, in the order of definition: every convolution, every linear layer and every activation function."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED) or is_activation(module)}


def is_activation(module: nn.Module) -> bool:
    """Whether the module is one of torch's activation functions (nn.ReLU, nn.Tanh, ...)."""
    return type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)


class Observer:
    """Mean and standard deviation of the outputs of all observed layers, on the batch that a step works on."""

    def __init__(self, model: nn.Module, every: int) -> None:
        self.layers = observed_layers(model)
        self.every = every
        self._measured: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, every forward pass of the model is measured; outside nothing is attached to it."""
        self._measured.clear()
        handles = [module.register_forward_hook(self._hook(name)) for name, module in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self) -> dict[str, float]:
        """TensorBoard tag -> value of what was measured last; the one copy from the device to the host."""
        if not self._measured:
            return {}
        table = torch.stack(list(self._measured.values())).cpu().tolist()
        named = zip(self._measured, table, strict=True)
        return {f"{statistic}/{layer}": row[i] for layer, row in named for i, statistic in enumerate(STATISTICS)}

    def _hook(self, name: str) -> Callable[..., None]:
        def measure(_: nn.Module, __: Any, output: Tensor) -> None:
            # Here and not later: an operation in place after this layer would overwrite its output.
            with torch.no_grad():
                variance, mean = torch.var_mean(output.detach().float(), correction=0)
                self._measured[name] = torch.stack((mean, variance.sqrt()))

        return measure


@torch.no_grad()
def forward_apart(model: nn.Module, forward: Callable[[], object]) -> None:
    """Run `forward` in training mode and leave no trace of it: running averages and the random state are put back."""
    kept = [buffer.clone() for buffer in model.buffers()]
    devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        forward()
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
