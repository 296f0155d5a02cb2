"""Divergence: detect a loss or weights that are not finite, and go back to the steps that led to it."""

from __future__ import annotations

import copy
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.data.contracts import Batch
from train.observe.arrival import Arrival
from train.run.signals import StopSignal
from train.run.step import TrainState
from train.run.stored_state import fitting, refuse_unlike

SNAPSHOT_EVERY = 50
"""Steps between two snapshots: the maximum number of steps to replay when the loss is not finite."""


COPY_EVERY = SNAPSHOT_EVERY
"""Losses that travel from a GPU to the host together. Each copy makes the host wait for the steps that are on their way."""


class NanWatch:
    """A queue of the losses on their way to the host: there at once on a CPU, copied asynchronously from a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._losses: list[tuple[int, Tensor]] = []
        self._sent: deque[tuple[tuple[int, ...], Arrival]] = deque()

    def add(self, step: int, loss: Tensor) -> None:
        self._losses.append((step, loss))
        if self._device.type == "cuda" and len(self._losses) == COPY_EVERY:
            self._send()

    def _send(self) -> None:
        steps, losses = zip(*self._losses, strict=True)
        self._losses.clear()
        self._sent.append((steps, Arrival(torch.stack(losses))))

    def first_nonfinite(self, wait: bool = False) -> int | None:
        """Return the first step whose loss was NaN or infinite among those that have arrived. `wait`: for all of them first."""
        if self._device.type != "cuda":
            losses, self._losses = self._losses, []
            return next((step for step, loss in losses if not math.isfinite(float(loss))), None)
        if wait and self._losses:
            self._send()
        while self._sent:
            steps, losses = self._sent[0]
            if not wait and not losses.is_there:
                return None
            self._sent.popleft()
            for step, loss in zip(steps, losses.take().tolist(), strict=True):
                if not math.isfinite(loss):
                    return step
        return None


class Snapshot:
    """A copy on the device of everything that a train step changes: weights, buffers, optimizer state and loss scale.

    `step`: the number of the next train step."""

    def __init__(self, train_state: TrainState, step: int) -> None:
        self.step = step
        self._train_state = train_state
        tensors = train_state.tensors().values()
        self._model: list[tuple[Tensor, Tensor]] = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._optimizer: dict[str, Any] = copy.deepcopy(train_state.optimizer.state_dict())
        self._scaler: dict[str, Any] = train_state.scaler.state_dict()

    @torch.no_grad()
    def renew(self, step: int) -> bool:
        """Copy the present train state into the same tensors, all at once. Return False, and do nothing, where the optimizer
        has other entries by now: before the first step it has none."""
        present = self._train_state.optimizer.state_dict()
        entries, copies = present["state"], self._optimizer["state"]
        if {key: entry.keys() for key, entry in entries.items()} != {key: entry.keys() for key, entry in copies.items()}:
            return False
        pairs = [*self._model]
        for key, entry in entries.items():
            for name, value in entry.items():
                if isinstance(value, Tensor) and isinstance(copies[key][name], Tensor):
                    pairs.append((value, copies[key][name]))
                else:
                    copies[key][name] = copy.deepcopy(value)
        copy_all(pairs)
        self.step, self._scaler = step, self._train_state.scaler.state_dict()
        self._optimizer["param_groups"] = copy.deepcopy(present["param_groups"])
        return True

    def state(self) -> dict[str, Any]:
        """Return the snapshot as the content of a checkpoint."""
        copies = [tensor for _, tensor in self._model]
        return {"step": self.step, "model": copies, "optimizer": self._optimizer, "scaler": self._scaler}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a snapshot from the content of a checkpoint, which the train state is in already."""
        refuse_unlike(state["optimizer"], self._optimizer)
        refuse_unlike(state["scaler"], self._scaler)
        entries, present = state["optimizer"]["state"], self._optimizer["state"]
        if any(entry and entry.keys() != present.get(number, {}).keys() for number, entry in entries.items()):
            raise ValueError("the snapshot has another state of the optimizer")
        self.step, self._scaler = state["step"], state["scaler"]
        self._optimizer = fitting(self._train_state.optimizer, state["optimizer"])
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


def copy_all(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the first tensor of each pair into the second. A GPU gets few kernels for all instead of one for each."""
    kinds: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for source, target in pairs:
        kinds[source.device, source.dtype].append((source.detach(), target))
    for same_kind in kinds.values():
        sources, targets = zip(*same_kind, strict=True)
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def first_nonfinite_weight(model: nn.Module) -> str:
    """Return the name of the first parameter with values that are not finite; empty if there is none."""
    finite = {name: weight.detach().isfinite().all() for name, weight in model.named_parameters()}
    on_host = torch.stack(list(finite.values())).tolist() if finite else []
    return next((name for name, is_finite in zip(finite, on_host, strict=True) if not is_finite), "")


class DivergenceWatch:
    """Finds the first step whose loss is not finite, and keeps a snapshot from which the steps that led to it can be replayed.

    `keep_snapshots`: False where no step will be observed in a replay. `failed_step`: None as long as every loss was finite, and
    at the end the weights; `reason`: what was not finite.
    """

    def __init__(self, train_state: TrainState, keep_snapshots: bool) -> None:
        self.snapshot: Snapshot | None = None
        self.failed_step: int | None = None
        self.reason = ""
        self._train_state = train_state
        self._keep_snapshots = keep_snapshots
        self._losses = NanWatch(train_state.placement.device)
        self._alone = train_state.world.is_alone

    def before_step(self, step: int) -> None:
        """Take a snapshot, if one is due before train step number `step`."""
        if not self._keep_snapshots or (self.snapshot is not None and step % SNAPSHOT_EVERY):
            return
        if self.snapshot is None or not self.snapshot.renew(step):
            self.snapshot = Snapshot(self._train_state, step)

    def after_step(self, step: int, loss: Tensor) -> None:
        self._losses.add(step, loss)

    def find_failure(self, wait: bool = False) -> int | None:
        """Return `failed_step`, judged by the losses that have arrived. `wait`: for all of them first."""
        if self.failed_step is None:
            # Losses arrive at different times on several devices, which have to stop after the same step.
            self.failed_step = self._losses.first_nonfinite(wait) if wait or self._alone else None
            if self.failed_step is not None:
                self.reason = f"the training loss was not finite at step {self.failed_step}"
        return self.failed_step

    def check_weights(self, last_step: int) -> int | None:
        """Return `failed_step`: `last_step` if its update, which no loss follows, left weights that are not finite. It waits."""
        if self.failed_step is None and (name := first_nonfinite_weight(self._train_state.model)):
            self.failed_step = last_step
            self.reason = f"the weights were not finite after the last update, at step {last_step} (the first is {name})"
        return self.failed_step

    def load_snapshot(self, state: Mapping[str, Any]) -> None:
        """Load the snapshot from the content of a checkpoint."""
        self.snapshot = Snapshot(self._train_state, state["step"])
        self.snapshot.load_state(state)

    def replay(
        self,
        steps: int,
        batches: Callable[[int], Iterable[tuple[int, Batch]]],
        run: Callable[[int, Batch], None],
        stop: StopSignal,
    ) -> None:
        """Run the train steps between the snapshot and `steps` again, then restore the present train state.

        `batches`: returns (step, batch) from a step on. Randomness depends only on the step number. With
        trainer.deterministic=false the replay may diverge at another step.
        """
        if self.snapshot is None:
            return
        present = Snapshot(self._train_state, steps)
        self.snapshot.restore()
        for step, batch in batches(self.snapshot.step):
            if step >= steps or stop:
                break
            run(step, batch)
        present.restore()
