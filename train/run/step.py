"""The train step and the eval step: the numerical core of the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.data.contracts import Batch
from train.run.device import Placement


@dataclass(frozen=True)
class Measurement:
    """The loss of a batch (mean in a train step, sum in an eval step) and its number of correct answers; 0-d device tensors."""

    loss: Tensor
    correct: Tensor


@dataclass(frozen=True)
class TrainState:
    """The objects that a train step changes. `forward` is the model, or its compiled form with the same parameters."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    placement: Placement
    label_smoothing: float
    grad_clip: float | None


def train_step(train_state: TrainState, batch: Batch, lr_factor: float) -> Measurement:
    """Run forward, backward and one optimizer step at `lr_factor` times its initial learning rate. Never waits for the device."""
    loss, logits = training_loss(train_state, train_state.forward, batch)
    for group in train_state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor
    train_state.scaler.scale(loss).backward()
    if train_state.grad_clip is not None:
        train_state.scaler.unscale_(train_state.optimizer)
        nn.utils.clip_grad_norm_(train_state.model.parameters(), train_state.grad_clip)
    train_state.scaler.step(train_state.optimizer)
    train_state.scaler.update()
    train_state.optimizer.zero_grad(set_to_none=True)
    return Measurement(loss.detach(), correct(logits.detach(), batch.labels))


def training_loss(train_state: TrainState, forward: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the unscaled mean loss of the batch and its logits, float32 [N, K]."""
    with train_state.placement.autocast():
        logits = forward(batch.images)
    logits = logits.float()
    return functional.cross_entropy(logits, batch.labels, label_smoothing=train_state.label_smoothing), logits


@torch.no_grad()
def eval_step(model: nn.Module, placement: Placement, batch: Batch) -> Measurement:
    """Return the sum of the losses (without label smoothing) and the number of correct answers. Expects evaluation mode."""
    with placement.autocast():
        logits = model(batch.images)
    logits = logits.float()
    return Measurement(functional.cross_entropy(logits, batch.labels, reduction="sum"), correct(logits, batch.labels))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).sum()
