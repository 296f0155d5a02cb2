"""Steps whose input and results have fixed places, as a CUDA graph needs them; without a graph they run anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from train.data.contracts import Batch, MixedLabels, PendingBatch
from train.observe.measurements import Table
from train.observe.observer import Observer
from train.run.step import Measurement, TrainState

Form: TypeAlias = tuple[tuple[str, torch.Size, torch.dtype], ...]


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of which the batch consists, or is made, by name."""
    if isinstance(batch, PendingBatch):
        return dict(batch.inputs)
    mixed = {} if batch.mixed is None else {"others": batch.mixed.others, "share": batch.mixed.share}
    return {"images": batch.images, "labels": batch.labels, **mixed}


def form_of(batch: Batch) -> Form:
    """Return the shapes and types of the inputs: batches of one form fit into the same places."""
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs_of(batch).items())


class Places:
    """Tensors that stay: the inputs of a batch, and a table with the results of the last `capacity` steps.

    `like`: a batch of the run.
    """

    def __init__(self, like: Batch, capacity: int) -> None:
        self.inputs = {name: torch.empty_like(tensor) for name, tensor in inputs_of(like).items()}
        self._make = like.make if isinstance(like, PendingBatch) else _batch_of
        device = like.images.device
        hits = torch.zeros(capacity, dtype=torch.int64 if like.mixed is None else torch.float32, device=device)
        self.results = Measurement(torch.zeros(capacity, device=device), hits)
        self._rows = torch.arange(capacity, device=device)
        self._next = torch.zeros((), dtype=torch.int64, device=device)
        self._done = 0

    def load(self, batch: Batch) -> None:
        """Copy the inputs of a batch into their places."""
        for name, tensor in inputs_of(batch).items():
            self.inputs[name].copy_(tensor)

    def batch(self) -> Batch:
        """Return the batch of the inputs in their places; a pending one is made by a step that is captured."""
        return self._make(self.inputs)

    def note(self, measured: Measurement) -> None:
        """Write the results into the next row of the table, without a number from the host."""
        here = self._rows == self._next
        torch.where(here, measured.loss, self.results.loss, out=self.results.loss)
        torch.where(here, measured.correct, self.results.correct, out=self.results.correct)
        self._next.add_(1).remainder_(len(self._rows))

    def take(self) -> Measurement:
        """Return views of the row that was just noted. Call it once after each `note`."""
        row = self._done % len(self._rows)
        self._done += 1
        return Measurement(self.results.loss[row], self.results.correct[row])


def _batch_of(inputs: Mapping[str, Tensor]) -> Batch:
    mixed = MixedLabels(inputs["others"], inputs["share"]) if "others" in inputs else None
    return Batch(inputs["images"], inputs["labels"], mixed)


class StaticStep:
    """A step in fixed places. `compute`: a step of StepRunner; `observer`: of an observed step, which leaves measurements there.

    `launch` runs `step`, or is set to replay a graph of it.
    """

    def __init__(self, compute: Callable[[Batch], Measurement], places: Places, observer: Observer | None = None) -> None:
        self.compute = compute
        self.places = places
        self.observer = observer
        self.launch: Callable[[], None] = self.step
        self._table: Table | None = None

    def step(self) -> None:
        """Run the step on the batch in its place: what a CUDA graph captures."""
        self.places.note(self.compute(self.places.batch()))
        self._table = self.measured()

    def measured(self) -> Table | None:
        """Return what the step left to the observer, and take it away there."""
        return self.observer.take() if self.observer else None

    def run(self, batch: Batch) -> Measurement:
        """Run the step on `batch`; return views of the table of results, and leave to the observer what was measured."""
        measured, table = self.launched(batch)
        if self.observer and table:
            self.observer.put(table)
        return measured

    def launched(self, batch: Batch) -> tuple[Measurement, Table | None]:
        """Run the step on `batch`; return views of the table of results, and what was measured in the network."""
        self.places.load(batch)
        self.launch()
        # copied, since other graphs may use the same memory
        table = None if self._table is None else replace(self._table, numbers=self._table.numbers.clone())
        return self.places.take(), table


class StateCopy:
    """A copy on the device of everything that a step may change: the train state and the states of the random generators."""

    def __init__(self, train_state: TrainState) -> None:
        self._device = train_state.placement.device
        self._targets = changing_tensors(train_state)
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._targets.items()}
        self._random = torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back."""
        for name, target in self._targets.items():
            target.copy_(self.tensors[name])
        on_host, on_device = self._random
        torch.set_rng_state(on_host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self._device)


def changing_tensors(train_state: TrainState) -> dict[str, Tensor]:
    """Return parameters and buffers, and the tensors of optimizer and loss scaler, by name."""
    found = train_state.tensors()
    for index, state in enumerate(train_state.optimizer.state.values()):
        found |= {f"{name} of the optimizer, number {index}": x for name, x in state.items() if isinstance(x, Tensor)}
    return found | {f"the scaler's {name}": x for name, x in vars(train_state.scaler).items() if isinstance(x, Tensor)}


def run_both_ways(static: StaticStep, batch: Batch, train_state: TrainState) -> tuple[Measurement, str]:
    """Run an eager step, put the state back and run the static step. Return the latter's results, and the name of the first
    tensor that is not the same to the bit, or an empty string; then the state is put back once more.
    """
    before = StateCopy(train_state)
    eager = results_of(static.compute(batch), static.measured()) | StateCopy(train_state).tensors
    before.restore()
    measured, table = static.launched(batch)
    name = first_difference(eager, results_of(measured, table) | changing_tensors(train_state))
    if name:
        before.restore()
    elif static.observer and table:
        static.observer.put(table)
    return measured, name


def results_of(measured: Measurement, table: Table | None) -> dict[str, Tensor]:
    """Return the results of a step by name."""
    results = {"the loss": measured.loss, "the number of correct answers": measured.correct}
    return results | {"the statistics of the layers": table.numbers} if table else results


def first_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str:
    """Return the first name whose tensors do not have the same bytes, or an empty string. NaN equals NaN, and 0 is not -0."""
    missing = first.keys() ^ second.keys()
    different = (name for name in first if not torch.equal(_bytes(first[name]), _bytes(second[name])))
    return min(missing) if missing else next(different, "")


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
