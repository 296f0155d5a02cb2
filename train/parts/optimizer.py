"""Optimizers: each choice returns a function from parameter groups to torch's own optimizer.

A group is a dict with `params` and `weight_decay`. The update of all parameters is one fused kernel where torch has one:
floating-point parameters on CPU or CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import Interval, Len

from train.errors import UsageError

Groups: TypeAlias = list[dict[str, Any]]
OptimizerFactory: TypeAlias = Callable[[Groups], torch.optim.Optimizer]
Positive = Annotated[float, Interval(gt=0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]


def sgd(lr: Positive = 0.2, momentum: Fraction = 0.9, nesterov: bool = True) -> OptimizerFactory:
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v, with g = gradient + weight_decay w.

    `nesterov` steps along g + momentum v instead of v (Sutskever et al. 2013).
    UsageError: `nesterov` without momentum.
    """
    if nesterov and momentum == 0:
        raise UsageError(
            "optimizer.nesterov=true needs optimizer.momentum above 0, and it is 0. "
            "Set optimizer.nesterov=false, or a momentum such as 0.9."
        )

    def make(groups: Groups) -> torch.optim.Optimizer:
        made = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_can_fuse(groups))
        for parameter in (p for group in made.param_groups for p in group["params"] if momentum and p.requires_grad):
            # Torch takes memory for v at the first step, and leaves it as it is when loss scaling leaves that step out.
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made

    return make


def adamw(
    lr: Positive = 0.001, betas: Annotated[Sequence[Fraction], Len(2, 2)] = (0.9, 0.999), eps: Positive = 1e-8
) -> OptimizerFactory:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019).

    w <- w - lr weight_decay w - lr m / (sqrt(v) + eps), with m and v the bias-corrected running means, of memory `betas`,
    of the gradient and of its square.
    """
    first, second = betas
    return lambda groups: torch.optim.AdamW(groups, lr=lr, betas=(first, second), eps=eps, fused=_can_fuse(groups))


def _can_fuse(groups: Groups) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
