"""The train step and the eval step: the numerical core of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.data.contracts import Batch
from train.parts.contracts import Average, SecondPass
from train.run.device import Placement
from train.run.parallel import DistributedForward, share_buffers
from train.run.stored_state import fitting
from train.world import ALONE, World


@dataclass(frozen=True)
class Measurement:
    """The loss of a batch (mean in a train step, sum in an eval step) and its number of correct answers; 0-d device tensors."""

    loss: Tensor
    correct: Tensor


@dataclass(frozen=True)
class Score:
    """The mean loss and the accuracy (0 to 1) over `examples` images."""

    loss: float
    accuracy: float
    examples: int

    def values(self, split: str) -> dict[str, float]:
        """Return the values under the tags of their record."""
        return {f"loss/{split}": self.loss, f"accuracy/{split}": self.accuracy}


@dataclass(frozen=True)
class TrainState:
    """The objects that a train step changes. `forward` is the model, or its compiled form with the same parameters, or what makes
    its gradients the mean over several devices (`train.run.parallel`).

    `rates`: initial learning rate -> the present one, float32 on the device, where the optimizer can read it there (`rates_for`);
    `average`: follows the model, and is scored in its place; `second_pass`: replaces the gradients before they are used.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    placement: Placement
    label_smoothing: float
    grad_clip: float | None
    rates: Mapping[float, Tensor] = field(default_factory=dict)
    average: Average | None = None
    second_pass: SecondPass | None = None
    world: World = ALONE

    @property
    def calls_hooks(self) -> bool:
        """Whether a train step calls the hooks on the model. A compiled model does not."""
        return self.forward is self.model or not self.world.is_alone

    @property
    def scored(self) -> nn.Module:
        """The model that is scored, kept and stored."""
        return self.model if self.average is None else self.average.module

    @property
    def scored_beside(self) -> Mapping[str, nn.Module]:
        """Further models that are scored, by what their tags end with."""
        return {} if self.average is None else {"raw": self.model}

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers of all models, by name."""
        averaged = {} if self.average is None else _tensors_of(self.average.module)
        return _tensors_of(self.model) | {f"{name} of the average": tensor for name, tensor in averaged.items()}

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        average = {} if self.average is None else {"average": self.average.module.state_dict()}
        return {name: part.state_dict() for name, part in parts.items()} | average

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the content of a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(fitting(self.optimizer, state["optimizer"]))
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def forward_of(model: nn.Module, compiled: bool, world: World) -> Callable[[Tensor], Tensor]:
    """Return `TrainState.forward`."""
    if not world.is_alone:
        return DistributedForward(model, world)
    return torch.compile(model) if compiled else model


def rates_for(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[float, Tensor]:
    """Return `TrainState.rates`: empty, unless a fused kernel on CUDA makes the update. It can read the learning rate there.

    Eager steps do so, too, and thus round as the replays of a CUDA graph, which cannot take numbers from the host.
    """
    if device.type != "cuda" or not all(group.get("fused") for group in optimizer.param_groups):
        return {}
    return {group["initial_lr"]: torch.zeros((), device=device) for group in optimizer.param_groups}


def set_learning_rate(train_state: TrainState, lr_factor: float) -> None:
    """Set the learning rate of every parameter group to `lr_factor` times its initial one."""
    for group in train_state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor
    for initial, rate in train_state.rates.items():
        rate.fill_(initial * lr_factor)


def update(train_state: TrainState, batch: Batch, on_gradients: Callable[[], None] = lambda: None) -> Measurement:
    """Run a train step at the present learning rate: what a CUDA graph captures. It takes nothing from the host but `batch`.

    `on_gradients`: called when the parameters hold the gradients of the whole batch's loss.
    """
    loss, logits = training_loss(train_state, train_state.forward, batch)
    train_state.scaler.scale(loss).backward()
    on_gradients()
    if train_state.second_pass is not None:
        train_state.second_pass(train_state.model, partial(add_gradients, train_state, batch))
    if train_state.grad_clip is not None:
        train_state.scaler.unscale_(train_state.optimizer)
        nn.utils.clip_grad_norm_(train_state.model.parameters(), train_state.grad_clip)
    with rates_on_device(train_state) if train_state.rates else nullcontext():
        train_state.scaler.step(train_state.optimizer)
    train_state.scaler.update()
    train_state.optimizer.zero_grad(set_to_none=True)
    share_buffers(train_state.model, train_state.world)
    if train_state.average is not None:
        train_state.average.update_parameters(train_state.model)
    return of_whole_batch(train_state.world, Measurement(loss.detach(), answers(logits.detach(), batch)))


def of_whole_batch(world: World, part: Measurement) -> Measurement:
    """Return the measurement of a batch from that of this rank's part of it; all parts have as many images."""
    if world.is_alone:
        return part
    loss, correct = world.mean(torch.stack((part.loss, part.correct.to(part.loss.dtype)))).unbind()
    return Measurement(loss, correct * world.size)


def add_gradients(train_state: TrainState, batch: Batch) -> None:
    """Add the gradients of the batch's loss, scaled as the first ones, at the present weights."""
    train_state.scaler.scale(training_loss(train_state, train_state.forward, batch)[0]).backward()


@contextmanager
def rates_on_device(train_state: TrainState) -> Iterator[None]:
    """Put the tensors of `rates` into the parameter groups inside the context; outside, and in checkpoints, they hold numbers."""
    groups = train_state.optimizer.param_groups
    numbers = [group["lr"] for group in groups]
    try:
        for group in groups:
            group["lr"] = train_state.rates[group["initial_lr"]]
        yield
    finally:
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number


def training_loss(train_state: TrainState, forward: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the unscaled mean loss of the batch and its logits, float32 [N, K]."""
    with train_state.placement.autocast():
        logits = forward(batch.images)
    logits = logits.float()
    smoothing, mixed = train_state.label_smoothing, batch.mixed
    if mixed is None:
        return functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing), logits
    own, other = (
        functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        for labels in (batch.labels, mixed.others)
    )
    return (mixed.share * own + (1 - mixed.share) * other).mean(), logits


@torch.no_grad()
def eval_step(
    model: nn.Module, placement: Placement, batch: Batch, watch: Callable[[Tensor, Tensor], None] | None = None
) -> Measurement:
    """Return the sum of the losses (without label smoothing) and the number of correct answers. Expects evaluation mode.

    `watch`: gets the logits, float32 [N, K], and the labels.
    """
    with placement.autocast():
        logits = model(batch.images)
    logits = logits.float()
    if watch is not None:
        watch(logits, batch.labels)
    return Measurement(functional.cross_entropy(logits, batch.labels, reduction="sum"), correct(logits, batch.labels))


def answers(logits: Tensor, batch: Batch) -> Tensor:
    """Return the number of correct answers, int64; of mixed images, of which either label counts by its share, float32."""
    if batch.mixed is None:
        return correct(logits, batch.labels)
    found, share = logits.argmax(dim=1), batch.mixed.share
    return (share * (found == batch.labels) + (1 - share) * (found == batch.mixed.others)).sum()


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).sum()


def table_of(measurements: Sequence[Measurement]) -> Tensor:
    """Return loss and number of correct answers as [N, 2] on the device."""
    losses, hits = torch.stack([m.loss for m in measurements]), torch.stack([m.correct for m in measurements])
    return torch.stack((losses, hits.to(losses.dtype)), dim=1)
