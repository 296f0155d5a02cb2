"""A buffer that collects measurements on the device and copies them to the host all at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.observe.histogram import Histogram, histogram_from_counts
from train.tags import join


@dataclass(frozen=True)
class Observation:
    """The measurements of one step, on the host. `values`: TensorBoard tag -> number."""

    values: Mapping[str, float] = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ()


class MeasurementBuffer:
    """Scalars by (statistic, layer) and rows of `bin_counts` by tag, all float32 on one device."""

    def __init__(self) -> None:
        self._scalars: dict[tuple[str, str], Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def add(self, prefix: str, layer: str, values: Mapping[str, Tensor]) -> None:
        for statistic, value in values.items():
            self._scalars[prefix + statistic, layer] = value

    def add_row(self, tag: str, row: Tensor) -> None:
        self._rows[tag] = row

    def clear(self) -> None:
        self._scalars.clear()
        self._rows.clear()

    def read(self, layers: Iterable[str]) -> Observation:
        """Return everything added since the last call, in one copy from the device, and clear the buffer.

        The layers of a statistic come in the order of `layers`.
        """
        if not self._scalars:
            return Observation()
        parts = [torch.stack(list(self._scalars.values())), *self._rows.values()]
        numbers = torch.cat(parts).tolist()
        scalars = dict(zip(self._scalars, numbers, strict=False))
        values = ordered_tags(scalars, layers)
        start = len(scalars)
        histograms: list[Histogram] = []
        for tag, row in self._rows.items():
            counts, start = numbers[start : start + len(row)], start + len(row)
            if math.isfinite(counts[0]) and math.isfinite(counts[1]):
                histograms.append(histogram_from_counts(tag, counts))
        self.clear()
        return Observation(values, tuple(histograms))


def ordered_tags(scalars: Mapping[tuple[str, str], float], layers: Iterable[str]) -> dict[str, float]:
    """Return tag -> value, by statistic in the order of appearance, then in the order of `layers`.

    Hooks add gradients from the last layer to the first.
    """
    statistics = list(dict.fromkeys(statistic for statistic, _ in scalars))
    names = list(layers)
    keys = [(statistic, layer) for statistic in statistics for layer in names]
    return {join(*key): scalars[key] for key in keys if key in scalars}
