"""A buffer that collects measurements on the device and copies them to the host all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from train.observe.arrival import Arrival
from train.observe.combine import Measured, combined
from train.tags import join
from train.world import ALONE, World

BINS = 64
LIMIT = 2**20


@dataclass(frozen=True)
class Histogram:
    """Bin counts: `counts[i]` values lie in [edges[i], edges[i + 1]); the last bin includes its upper edge."""

    tag: str
    edges: Sequence[float]
    counts: Sequence[float]


def bin_counts(y: Tensor) -> Tensor:
    """Return [2 + BINS] float32 on the device of y [N, ...]: minimum, maximum and the counts of BINS equal bins between them.

    Only finite values count; if there are none, the first two numbers are infinite. A tensor of more than LIMIT values is
    represented by its first images, which are as random as the whole batch.
    """
    per_image = max(y[0].numel(), 1)
    x = y[: max(LIMIT // per_image, 1)].float().flatten()
    finite = torch.isfinite(x)
    low = torch.where(finite, x, torch.inf).amin()
    high = torch.where(finite, x, -torch.inf).amax()
    half = torch.where(low == high, 0.5, 0.0)  # if all values are equal: a bin of width 0 cannot be drawn
    low, high = low - half, high + half
    index = ((x - low) * (BINS / (high - low))).clamp(0, BINS - 1)
    index = torch.where(finite, index, BINS).long()
    # Integer sums are bit-exact in any order; torch.histc has no deterministic CUDA kernel, and bincount waits for the GPU.
    ones = torch.ones(1, dtype=torch.int64, device=x.device).expand_as(index)
    counts = torch.zeros(BINS + 1, dtype=torch.int64, device=x.device).scatter_add_(0, index, ones)
    return torch.cat([torch.stack([low, high]), counts[:BINS].float()])


def histogram_from_counts(tag: str, row: Sequence[float]) -> Histogram:
    """Return the histogram for a row of `bin_counts` that was copied to the host."""
    low, high, *counts = row
    width = (high - low) / len(counts)
    return Histogram(tag, [low + width * i for i in range(len(counts))] + [high], counts)


@dataclass(frozen=True)
class Observation:
    """The measurements of one step, on the host. `values`: TensorBoard tag -> number."""

    values: Mapping[str, float] = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ()


@dataclass(frozen=True)
class Table:
    """The measurements of a buffer as one tensor on the device.

    `numbers`: float32 [M], first a number for each (statistic, layer) of `scalars`, then the rows of `rows`, tag -> length.
    """

    scalars: tuple[tuple[str, str], ...]
    rows: Mapping[str, int]
    numbers: Tensor


class MeasurementBuffer:
    """Scalars by (statistic, layer) and rows of `bin_counts` by tag, all float32 on one device."""

    def __init__(self) -> None:
        self._scalars: dict[tuple[str, str], Tensor] = {}
        self._rows: dict[str, Tensor] = {}
        self._tables: list[Table] = []

    def add(self, prefix: str, layer: str, values: Mapping[str, Tensor]) -> None:
        for statistic, value in values.items():
            self._scalars[prefix + statistic, layer] = value

    def add_row(self, tag: str, row: Tensor) -> None:
        self._rows[tag] = row

    def clear(self) -> None:
        self._scalars.clear()
        self._rows.clear()
        self._tables.clear()

    def take(self) -> Table | None:
        """Return and remove everything added by `add` and `add_row`; None for nothing. Does not wait for the device."""
        if not self._scalars:
            return None
        numbers = torch.cat([torch.stack(list(self._scalars.values())), *self._rows.values()])
        table = Table(tuple(self._scalars), {tag: len(row) for tag, row in self._rows.items()}, numbers)
        self._scalars.clear()
        self._rows.clear()
        return table

    def put(self, table: Table) -> None:
        """Add what was taken. It comes before what is added by other calls until `read`."""
        self._tables.append(table)

    def send(self, layers: Iterable[str], world: World = ALONE) -> Callable[[], Observation]:
        """Begin to copy all that was added since the last call to the host, in one piece, and return what waits for it.

        The layers of a statistic come in the order of `layers`. `world`: the ranks that measured parts of a batch, of which this
        is one collective.
        """
        added = self.take()
        tables = self._tables if added is None else [*self._tables, added]
        self._tables = []
        if not tables:
            return Observation
        arrival = Arrival(world.gathered(torch.cat([table.numbers for table in tables])))
        return lambda: _observation([_measured(tables, numbers) for numbers in arrival.take().tolist()], layers)


def _observation(of_ranks: Sequence[Measured], layers: Iterable[str]) -> Observation:
    measured = of_ranks[0] if len(of_ranks) == 1 else combined(of_ranks)
    finite = {tag: row for tag, row in measured.rows.items() if math.isfinite(row[0]) and math.isfinite(row[1])}
    histograms = tuple(histogram_from_counts(tag, row) for tag, row in finite.items())
    return Observation(ordered_tags(measured.scalars, layers), histograms)


def _measured(tables: Sequence[Table], numbers: Sequence[float]) -> Measured:
    """Return what is in the numbers of these tables, on the host."""
    rest = iter(numbers)
    scalars: dict[tuple[str, str], float] = {}
    rows: dict[str, list[float]] = {}
    for table in tables:
        scalars |= zip(table.scalars, islice(rest, len(table.scalars)), strict=True)
        rows |= {tag: list(islice(rest, length)) for tag, length in table.rows.items()}
    return Measured(scalars, rows)


def ordered_tags(scalars: Mapping[tuple[str, str], float], layers: Iterable[str]) -> dict[str, float]:
    """Return tag -> value, by statistic in the order of appearance, then in the order of `layers`.

    Hooks add gradients from the last layer to the first.
    """
    statistics = list(dict.fromkeys(statistic for statistic, _ in scalars))
    names = list(layers)
    keys = [(statistic, layer) for statistic in statistics for layer in names]
    return {join(*key): scalars[key] for key in keys if key in scalars}
