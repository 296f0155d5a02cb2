"""Whether the steps of a run are tried as CUDA graphs: the choice of the user, the device, and whose parts the run has."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import nn

from train.run.step import TrainState

Choice: TypeAlias = Literal["auto"] | bool

CAPTURED_PACKAGES = ("torch", "torchvision", "train")
"""`auto` trusts their parts to do the same at every step."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def reason_for_eager(train_state: TrainState, choice: Choice) -> str:
    """Return why no capture is tried, or an empty string.

    `choice`: the value of `trainer.cuda_graph`. True captures parts of the user's own, too. They may count steps in Python, which
    no check can see.
    """
    device, optimizer = train_state.placement.device, train_state.optimizer
    if not train_state.world.is_alone:
        return f"a run on {train_state.world.size} devices is eager, as nobody has measured the other yet"
    if choice is False:
        return "trainer.cuda_graph=false"
    if device.type != "cuda":
        return f"the device is {device.type}"
    if not train_state.rates:
        return f"the optimizer {type(optimizer).__name__} reads its learning rate on the host"
    return "" if choice is True else foreign_part(train_state.model, optimizer)


def foreign_part(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Return what the first part of the train step is that is neither torch's, torchvision's nor ours, or an empty string."""
    for name, part in [*model.named_modules(), ("the optimizer", optimizer)]:
        kind = type(part)
        if kind.__module__.partition(".")[0] not in CAPTURED_PACKAGES:
            return f"{name or 'the model'} is a {kind.__module__}.{kind.__qualname__}, which may change from step to step"
        if "forward" in vars(part) or any(getattr(part, hooks, None) for hooks in _HOOKS):
            return f"{name or 'the model'} has a hook or a forward of its own, which may change from step to step"
    return ""
