"""Optimizers: each choice returns a function from parameter groups to torch's own optimizer.

A group is a dict with `params` and `weight_decay`. A choice with a method `split(groups, kinds)` gets the kind of each parameter,
by its `id`, and returns the groups that it wants instead; kinds are those of `train.parts.kinds.parameter_kinds`.

`bias_factor`, `norm_factor` and `head_factor` multiply the learning rate of these kinds of parameters. The update of all
parameters is one fused kernel where torch has one: floating-point parameters on CPU or CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import Interval, Len
from torch import Tensor

from train.errors import UsageError
from train.parts.kinds import ParameterKind

Groups: TypeAlias = list[dict[str, Any]]
OptimizerFactory: TypeAlias = Callable[[Groups], torch.optim.Optimizer]
Positive = Annotated[float, Interval(gt=0)]
KINDS: tuple[ParameterKind, ...] = ("weight", "bias", "norm", "head")
Fraction = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class RatePerKind:
    """An optimizer factory with a rate for each kind of parameter: `lr` times the factor of the kind, 1 where it has none."""

    make: OptimizerFactory
    lr: float
    factors: Mapping[ParameterKind, float]

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        return self.make(groups)

    def split(self, groups: Groups, kinds: Mapping[int, ParameterKind]) -> Groups:
        """Return groups with rates of their own; the same groups if all factors are 1."""
        if all(factor == 1 for factor in self.factors.values()):
            return groups
        rates = {kind: self.lr * self.factors.get(kind, 1.0) for kind in KINDS}
        return [{**group, "lr": rates[kind]} for kind, group in by_kind(groups, kinds)]


def by_kind(groups: Groups, kinds: Mapping[int, ParameterKind]) -> list[tuple[ParameterKind, dict[str, Any]]]:
    """Return the groups with the parameters of one kind each, none of them empty, in the order of `KINDS` within a group."""
    split: list[tuple[ParameterKind, dict[str, Any]]] = [
        (kind, {**group, "params": [p for p in group["params"] if kinds[id(p)] == kind]}) for group in groups for kind in KINDS
    ]
    return [(kind, group) for kind, group in split if group["params"]]


def sgd(
    lr: Positive = 0.2,
    momentum: Fraction = 0.9,
    nesterov: bool = True,
    bias_factor: Positive = 1.0,
    norm_factor: Positive = 1.0,
    head_factor: Positive = 1.0,
) -> OptimizerFactory:
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

    return RatePerKind(make, lr, {"bias": bias_factor, "norm": norm_factor, "head": head_factor})


def adamw(
    lr: Positive = 0.001,
    betas: Annotated[Sequence[Fraction], Len(2, 2)] = (0.9, 0.999),
    eps: Positive = 1e-8,
    bias_factor: Positive = 1.0,
    norm_factor: Positive = 1.0,
    head_factor: Positive = 1.0,
) -> OptimizerFactory:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019).

    w <- w - lr weight_decay w - lr m / (sqrt(v) + eps), with m and v the bias-corrected running means, of memory `betas`,
    of the gradient and of its square.
    """
    first, second = betas

    def make(groups: Groups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=(first, second), eps=eps, fused=_can_fuse(groups))

    return RatePerKind(make, lr, {"bias": bias_factor, "norm": norm_factor, "head": head_factor})


@dataclass(frozen=True)
class _MuonFactory:
    """The choice `muon`: orthogonal steps for weights of at least two dimensions, the head excepted."""

    lr: float
    momentum: float
    nesterov: bool
    rest_lr: float

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        return Muon(groups, self.lr, self.momentum, self.nesterov)

    def split(self, groups: Groups, kinds: Mapping[int, ParameterKind]) -> Groups:
        """Return a group of the matrices and one of the rest for each of `groups`; those with matrices first."""
        matrices = {id(p) for group in groups for p in group["params"] if kinds[id(p)] == "weight" and p.ndim > 1}
        parts = [
            (orthogonal, [p for p in group["params"] if (id(p) in matrices) == orthogonal], group["weight_decay"])
            for orthogonal in (True, False)
            for group in groups
        ]
        return [
            {"params": parameters, "weight_decay": decay, "orthogonal": orthogonal, "lr": self.lr if orthogonal else self.rest_lr}
            for orthogonal, parameters, decay in parts
            if parameters
        ]


def muon(lr: Positive = 0.02, momentum: Fraction = 0.95, nesterov: bool = True, rest_lr: Positive = 0.001) -> OptimizerFactory:
    """Muon (Jordan et al. 2024): momentum, and the orthogonal matrix nearest to it as the step; filters are [out, in k k].

    v <- momentum v + (1 - momentum) g; the step is U S V^T of g + momentum (v - g) (`nesterov`) or of v with S near 1, by five
    Newton-Schulz iterations in bfloat16, times lr sqrt(max(1, rows / columns)): the formulas of `torch.optim.Muon`, which takes
    matrices alone. Biases, norms and the head have Adam's steps instead, at `rest_lr` and betas 0.9 and 0.95, as in the authors'
    recipes. Weight decay is decoupled in both.
    """
    return _MuonFactory(lr, momentum, nesterov, rest_lr)


class Muon(torch.optim.Optimizer):
    """The optimizer of `muon`. Groups whose `orthogonal` is True make orthogonal steps, the others (default) Adam's."""

    def __init__(self, groups: Groups, lr: float, momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "orthogonal": False, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            take = self._orthogonal_step if group["orthogonal"] else self._adam_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    take(parameter, parameter.grad, group)

    def _orthogonal_step(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        matrix = direction.flatten(1)
        rate = group["lr"] * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
        parameter.add_(orthogonalized(matrix).view(parameter.shape), alpha=-rate)

    def _adam_step(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        state["step"] += 1
        count = state["step"].item()  # on the CPU
        mean, square = state["exp_avg"].lerp_(gradient, 0.1), state["exp_avg_sq"]
        square.mul_(0.95).addcmul_(gradient, gradient, value=0.05)
        root = (square / (1 - 0.95**count)).sqrt_().add_(1e-10)
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - 0.9**count))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return bfloat16 U S V^T of a matrix U D V^T, with S between about 0.7 and 1.2: five Newton-Schulz iterations.

    The polynomial is that of Jordan et al. 2024, whose slope at 0 is steep.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _can_fuse(groups: Groups) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
