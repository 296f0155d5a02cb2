"""The train_state as it was before a step, to go back to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.run.step import TrainState


class Snapshot:
    """Copies on the device of everything that a train step changes: weights, buffers, optimizer state and loss scale.

    `step`: the number of the next train step."""

    def __init__(self, train_state: TrainState, step: int) -> None:
        self.step = step
        self._trainee = train_state
        tensors = [*train_state.model.parameters(), *train_state.model.buffers()]
        self._model: list[tuple[Tensor, Tensor]] = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._optimizer: dict[str, Any] = copy.deepcopy(train_state.optimizer.state_dict())
        self._scaler: dict[str, Any] = train_state.scaler.state_dict()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = [tensor for _, tensor in self._model]
        return {"step": self.step, "model": kept, "optimizer": self._optimizer, "scaler": self._scaler}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become a snapshot that was kept."""
        self.step, self._optimizer, self._scaler = state["step"], state["optimizer"], state["scaler"]
        for (_, mine), kept in zip(self._model, state["model"], strict=True):
            mine.copy_(kept)

    @torch.no_grad()
    def restore(self) -> None:
        """Make the train_state what it was."""
        for tensor, kept in self._model:
            tensor.copy_(kept)
        self._trainee.optimizer.load_state_dict(self._optimizer)
        if self._scaler:
            self._trainee.scaler.load_state_dict(self._scaler)
