"""Regularisation as values: `dropout` and `stochastic_depth` for the model, `label_smoothing` for the loss, parameter groups,
`ema_decay` for what follows each update, and `sam_radius` for the gradient that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.parts.contracts import Averaging, SecondPass


@dataclass(frozen=True)
class Regularization:
    """The settings of the config group `regularization`, for the model, the loss and the optimizer."""

    weight_decay: float
    dropout: float
    label_smoothing: float
    decay_bias_and_norm: bool
    stochastic_depth: float = 0.0
    ema_decay: float = 0.0
    sam_radius: float = 0.0

    @property
    def second_pass(self) -> SecondPass | None:
        """What replaces the gradients by those of a second pass; None without one."""
        return Sam(self.sam_radius) if self.sam_radius else None

    @property
    def averaging(self) -> Averaging | None:
        """What makes the average of the weights that is scored; None without one."""
        return partial(Ema, decay=self.ema_decay) if self.ema_decay else None


def regularization(
    weight_decay: Annotated[float, Interval(ge=0)] = 0.0,
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    decay_bias_and_norm: bool = False,
    stochastic_depth: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    sam_radius: Annotated[float, Interval(ge=0)] = 0.0,
) -> Regularization:
    """Return the settings of the group.

    weight_decay: the lambda of the lecture's penalty lambda/2 |W|^2 in the loss, exactly, with `optimizer=sgd`. With
        `optimizer=adamw` it is decoupled: each update also takes lr * weight_decay * W off the weight (Loshchilov & Hutter
        2019), which is not the gradient of a penalty, and calls for values like 0.01 to 0.1.
    dropout: the lecture's p, the probability of turning a unit *off* (Srivastava et al. 2014). torch divides what is left
        by 1 - p in training, where the lecture multiplies by 1 - p at test time: the expectations are the same.
    label_smoothing: this share of the target goes to all classes alike (Szegedy et al. 2016).
    decay_bias_and_norm: whether decay takes in biases and norm parameters, which are not in the lecture's W.
    stochastic_depth: the probability that an image skips the last residual branch (Huang et al. 2016); it grows in equal steps
        from the first branch on. Branches that are kept are divided by the probability of that.
    ema_decay: above 0, an average of the weights is scored and stored instead of the weights themselves; see `Ema`.
    sam_radius: above 0, the gradients are those at a worse point at this distance; see `Sam`.
    """
    return Regularization(weight_decay, dropout, label_smoothing, decay_bias_and_norm, stochastic_depth, ema_decay, sam_radius)


class Ema(AveragedModel):
    """The exponential moving average of a model's weights and buffers (Polyak & Juditsky 1992; in this form Tarvainen & Valpola
    2017): after each update, average <- decay average + (1 - decay) weights, from the initial weights on.

    Numbers that are not floats, as the count of a batch norm, are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.module.requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow an update. Torch's own asks the device for a count, which a train step must not wait for."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [(own, new) for own, new in pairs if own.is_floating_point()]
        assert self.multi_avg_fn is not None
        self.multi_avg_fn([own for own, _ in floats], [new.detach() for _, new in floats], 1)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)


@dataclass(frozen=True)
class Sam:
    """Sharpness-aware minimisation (Foret et al. 2021): the gradients are taken at w + `radius` g / |g|, where g is the gradient
    of the batch's loss at the weights w, and |g| the norm over all parameters.

    The second pass draws dropout anew. Averages of batch norms are those of the first one.
    """

    radius: float

    def __call__(self, model: nn.Module, again: Callable[[], None]) -> None:
        moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
        kept = [(tensor, tensor.detach().clone()) for tensor in (*moved, *model.buffers())]
        with torch.no_grad():
            gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
            scale = self.radius / (nn.utils.get_total_norm(gradients) + 1e-12)
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(gradient * scale)
                parameter.grad = None
        again()
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def parameter_groups(model: nn.Module, regularization: Regularization) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: each parameter once, in the model's order, with its group's `weight_decay`.

    The first group decays; a second, without decay, holds the biases and norm parameters, which are known by having
    fewer than two dimensions. With `decay_bias_and_norm` there is one group. Empty groups are left out.
    """
    everything = list(model.parameters())
    skipped = [p for p in everything if p.ndim < 2 and not regularization.decay_bias_and_norm]
    skipped_ids = set(map(id, skipped))
    decayed = [p for p in everything if id(p) not in skipped_ids]
    groups = [(decayed, regularization.weight_decay), (skipped, 0.0)]
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]
