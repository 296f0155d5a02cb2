"""In-memory copies of the train state, to restore it for a replay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.run.step import TrainState


class Snapshot:
    """A copy on the device of everything that a train step changes: weights, buffers, optimizer state and loss scale.

    `step`: the number of the next train step."""

    def __init__(self, train_state: TrainState, step: int) -> None:
        self.step = step
        self._train_state = train_state
        tensors = [*train_state.model.parameters(), *train_state.model.buffers()]
        self._model: list[tuple[Tensor, Tensor]] = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._optimizer: dict[str, Any] = copy.deepcopy(train_state.optimizer.state_dict())
        self._scaler: dict[str, Any] = train_state.scaler.state_dict()

    def state(self) -> dict[str, Any]:
        """Return the snapshot as the content of a checkpoint."""
        copies = [tensor for _, tensor in self._model]
        return {"step": self.step, "model": copies, "optimizer": self._optimizer, "scaler": self._scaler}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a snapshot from the content of a checkpoint."""
        self.step, self._optimizer, self._scaler = state["step"], state["optimizer"], state["scaler"]
        for (_, target), saved in zip(self._model, state["model"], strict=True):
            target.copy_(saved)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back into the train state."""
        for tensor, saved in self._model:
            tensor.copy_(saved)
        self._train_state.optimizer.load_state_dict(self._optimizer)
        if self._scaler:
            self._train_state.scaler.load_state_dict(self._scaler)
