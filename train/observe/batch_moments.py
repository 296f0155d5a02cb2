"""Mean and std of layer outputs at every step, recovered almost for free from the batch norms that follow the layers.

A batch norm updates its running averages as new = (1 - m) old + m batch, with momentum m. The averages before and after a train
step therefore give the batch statistics of each channel, batch = old + (new - old) / m, and these give the mean and std of the
whole layer. No hooks are needed, so this works for compiled models too.

The mean and inverse std that the kernel of a batch norm saves for its backward pass (`torch._batch_norm_impl_index`, private)
would need no limit on rounding, but a copy per norm and step; here two concatenations before a step and two after it serve all.

Letters: R rows (steps), L layers, C channels of all these layers together, c channels of one layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from train.observe.arrival import Arrival
from train.observe.layers import LayerCall
from train.parts.model.trace import TRACED_IMAGES, Call
from train.tags import join

MOST_ROWS = 2000
"""Maximum number of rows of a run; a longer run has a row at every second, third, ... step only."""

ROUNDING = 2.0**-23
"""Rounding error of a running average, relative to it: at most one float32 unit in the last place for each of the two terms."""

MAX_ROUNDING_SHARE = 0.01
"""Values whose rounding error exceeds this share of the layer's std are dropped. For signals much smaller than the initial
running variance (1), this drops the early steps: float32 averages cannot resolve them."""

Row: TypeAlias = tuple[int, dict[str, float]]
"""A step and its values by tag."""


@dataclass(frozen=True)
class NormalizedLayer:
    """A layer whose unchanged output is the input of a batch norm.

    `means`, `variances` [c]: the norm's running averages; `batches` [1]: how often they were updated. All three are the norm's
    own tensors, whose content changes. `positions`: values per image and channel.
    """

    layer: str
    means: Tensor
    variances: Tensor
    batches: Tensor
    momentum: float
    positions: int


def find_normalized_layers(calls: Sequence[Call], layer_calls: Sequence[LayerCall]) -> tuple[NormalizedLayer, ...]:
    """Return those of `layer_calls` whose output enters a batch norm with float32 running averages, in order of execution.

    `calls`: all of the same forward pass. Excluded are norms that are called more than once (their averages mix several batches)
    or that average over all steps (momentum null), and outputs changed before the norm.
    """
    names = {(call.module, call.call): call.info.name for call in layer_calls}
    counts = Counter(call.module for call in calls)
    layers: dict[str, NormalizedLayer] = {}
    for call in calls:
        norm = call.module
        if not isinstance(norm, _BatchNorm) or not keeps_averages(norm) or counts[norm] > 1:
            continue
        for source in reversed(calls[: call.returned_before]):
            name = names.get((source.name, source.number))
            if name and source.output is call.input and source.output_version == call.input_version:
                layers[name] = normalized_layer(name, norm, source.output.numel() // (TRACED_IMAGES * norm.num_features))
                break
    return tuple(layers.values())


def keeps_averages(norm: _BatchNorm) -> bool:
    """Return whether the norm keeps exponential averages in float32, and hence a count of the batches."""
    return bool(norm.momentum) and norm.running_mean is not None and norm.running_mean.dtype is torch.float32


def normalized_layer(layer: str, norm: _BatchNorm, positions: int) -> NormalizedLayer:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    count = norm.num_batches_tracked.view(1)
    return NormalizedLayer(layer, norm.running_mean, norm.running_var, count, norm.momentum or 0.0, positions)


class BatchMoments:
    """Stores the running averages around train steps and computes the layers' mean and std from them later.

    `batch_size`: images of each train step; `total`: train steps of the run; `capacity`: the number of rows that fit on the
    device before `send_rows`. Storing is a few copies between device tensors; only the rows make the host wait.
    """

    def __init__(self, layers: Sequence[NormalizedLayer], batch_size: int, total: int, capacity: int) -> None:
        self.layers = tuple(layer.layer for layer in layers)
        self._tags = [(join("activation_mean", layer), join("activation_std", layer)) for layer in self.layers]
        self.every = -(-total // MOST_ROWS) or 1
        self.next_step = 0
        """The rows of all steps below this number have been popped."""
        self._steps: list[int] = []
        self._row: int | None = None
        self.launch: Callable[[], None] | None = None
        """The replay of a graph of `fill`, if there is one."""
        self._capacity = capacity
        if not layers:
            return
        self._sources = [layer.means for layer in layers] + [layer.variances for layer in layers]
        self._counters = [layer.batches for layer in layers]
        self._widths = [len(layer.means) for layer in layers]
        channels = sum(self._widths)
        device = layers[0].means.device
        self._averages = torch.zeros(capacity, 2, 2 * channels, device=device)  # before and after; means, then variances
        self._counts = torch.zeros(capacity, 2, len(layers), dtype=torch.int64, device=device)
        self._latest_averages, self._latest_counts = (torch.zeros_like(table[0]) for table in (self._averages, self._counts))
        values_per_channel = [batch_size * layer.positions for layer in layers]

        def by_channel(numbers: Sequence[float]) -> Tensor:
            return torch.cat([torch.full((c,), number) for c, number in zip(self._widths, numbers, strict=True)]).to(device)

        self._momentum = by_channel([layer.momentum for layer in layers]).repeat(2)
        # Running variances average n / (n - 1) times the variance of a batch of n values.
        self._biased = by_channel([(n - 1) / n for n in values_per_channel])

    def clear(self) -> None:
        """Forget all rows."""
        self._steps, self.next_step = [], 0

    def due(self, step: int) -> bool:
        return bool(self.layers) and step % self.every == 0

    @contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """Provide a row, if one is due, to train step number `step`, which stores the averages by `storing`. Steps must not
        decrease."""
        if not self.due(step):
            yield
            return
        assert len(self._steps) < self._capacity, "the buffer is full: call send_rows first"
        self._row = len(self._steps)
        try:
            yield
        finally:
            self._row = None
        self._steps.append(step)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Store the averages before and after the block in the row that is provided, if one is."""
        row = self._row
        if row is None:
            yield
            return
        self._write(self._averages[row, 0], self._counts[row, 0])
        yield
        self._write(self._averages[row, 1], self._counts[row, 1])

    @contextmanager
    def storing_in_place(self) -> Iterator[None]:
        """Store the averages before and after the block where `keep` finds them: what a CUDA graph captures."""
        if not self.layers:
            yield
            return
        self._write(self._latest_averages[0], self._latest_counts[0])
        yield
        self._write(self._latest_averages[1], self._latest_counts[1])

    @torch.no_grad()
    def keep(self) -> None:
        """Copy what was stored last by `storing_in_place` into the row that is provided, if one is."""
        if self._row is not None:
            self._averages[self._row].copy_(self._latest_averages)
            self._counts[self._row].copy_(self._latest_counts)

    @torch.no_grad()
    def _write(self, averages: Tensor, counts: Tensor) -> None:
        torch.cat(self._sources, out=averages)
        torch.cat(self._counters, out=counts)

    def send_rows(self, before: int | None = None) -> Callable[[], list[Row]]:
        """Remove the stored steps below `before` (None: all), and return what waits for their values and returns them.

        They are copied to the host meanwhile, all at once. A layer has values only if its norm saw exactly one batch in the train
        step and the rounding error is small enough (MAX_ROUNDING_SHARE).
        """
        count = len(self._steps) if before is None else sum(step < before for step in self._steps)
        if not count:
            return list
        # Compute all rows, used or not: how a device sums a row may depend on the number of rows, and a resumed run has fewer.
        steps, columns = self._steps[:count], Arrival(self._compute()[:, :count])
        self.next_step = steps[-1] + 1
        self._keep(self._steps[count:], self._averages[count:], self._counts[count:])
        return lambda: self._rows(steps, columns)

    def _rows(self, steps: Sequence[int], columns: Arrival) -> list[Row]:
        rows: list[Row] = []
        for step, means, stds, usable in zip(steps, *columns.take().tolist(), strict=True):
            used = [value for value in zip(self._tags, means, stds, usable, strict=True) if value[3]]
            values = {tags[0]: mean for tags, mean, _, _ in used} | {tags[1]: std for tags, _, std, _ in used}
            if values:
                rows.append((step, values))
        return rows

    def fill(self) -> None:
        """Compute the columns of all rows, where `launch` finds them: what a CUDA graph captures. It has many small kernels."""
        self._columns = self._moments()

    def _compute(self) -> Tensor:
        if self.launch is None:
            return self._moments()
        self.launch()
        return self._columns

    @torch.no_grad()
    def _moments(self) -> Tensor:
        """Return mean, std (dividing by the number of values) and 1 where they are usable, else 0: [3, R, L].

        std^2 = mean over the channels of their variances + variance over the channels of their means. It is infinite from 1e19
        on, where squares exceed float32.
        """
        before, after = self._averages.unbind(1)
        batch = before + (after - before) / self._momentum
        rounding = ROUNDING * (before.abs() + after.abs()) / self._momentum
        means, variances = batch.chunk(2, dim=1)
        lost = (~before.isfinite()).float().chunk(2, dim=1)
        channels = torch.stack((means, (variances * self._biased).clamp(min=0), *rounding.chunk(2, dim=1), *lost))  # [6, R, C]
        layers = [layer.mean(2) for layer in channels.split(self._widths, dim=2)]
        parts = zip(means.split(self._widths, dim=1), layers, strict=True)
        between = torch.stack([(mean - layer[0, :, None]).square().mean(1) for mean, layer in parts], dim=1)
        mean, within, mean_error, variance_error, *lost = torch.stack(layers, dim=2)
        std = (within + between).sqrt()
        error = mean_error + variance_error / (2 * std)
        inexact = error > MAX_ROUNDING_SHARE * std  # False for NaN: non-finite values are recorded too
        once = self._counts[:, 1] - self._counts[:, 0] == 1
        return torch.stack((mean, std, (once & ~inexact & (lost[0] + lost[1] == 0)).to(mean.dtype)))

    def _keep(self, steps: list[int], averages: Tensor, counts: Tensor) -> None:
        self._steps = steps
        self._averages[: len(steps)] = averages[: len(steps)].clone()
        self._counts[: len(steps)] = counts[: len(steps)].clone()

    def state(self) -> dict[str, Any]:
        """Return the state that `load_state` restores in a resumed run."""
        if not self._steps:
            return {"taken": self.next_step, "steps": []}
        used = slice(len(self._steps))
        return {
            "taken": self.next_step,
            "steps": list(self._steps),
            "averages": self._averages[used].clone(),
            "counts": self._counts[used].clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.next_step = state["taken"]
        if state["steps"]:
            if len(state["steps"]) >= self._capacity:
                raise ValueError(f"{len(state['steps'])} rows do not fit")
            self._keep(list(state["steps"]), state["averages"], state["counts"])
