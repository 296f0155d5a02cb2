"""Where measurements gather on the device until they are copied to the host, all at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.observe.histogram import Histogram, histogram_from_counts


@dataclass(frozen=True)
class Observation:
    """What was measured, on the host. `values`: TensorBoard tag -> number."""

    values: Mapping[str, float] = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ()


class MeasurementBuffer:
    """Scalars under (statistic, layer), rows of `bin_counts` under a tag; all of them float32 on one device."""

    def __init__(self) -> None:
        self._scalars: dict[tuple[str, str], Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def put(self, prefix: str, layer: str, values: Mapping[str, Tensor]) -> None:
        for statistic, value in values.items():
            self._scalars[prefix + statistic, layer] = value

    def put_row(self, tag: str, row: Tensor) -> None:
        self._rows[tag] = row

    def clear(self) -> None:
        self._scalars.clear()
        self._rows.clear()

    def read(self, layers: Iterable[str]) -> Observation:
        """Everything since the last time, a statistic's layers in the order of `layers`. The one copy from the device."""
        if not self._scalars:
            return Observation()
        parts = [torch.stack(list(self._scalars.values())), *self._rows.values()]
        table = torch.cat(parts).tolist()
        scalars = dict(zip(self._scalars, table, strict=False))
        values = ordered_tags(scalars, layers)
        start = len(scalars)
        histograms: list[Histogram] = []
        for tag, row in self._rows.items():
            numbers, start = table[start : start + len(row)], start + len(row)
            if math.isfinite(numbers[0]) and math.isfinite(numbers[1]):
                histograms.append(histogram_from_counts(tag, numbers))
        self.clear()
        return Observation(values, tuple(histograms))


def ordered_tags(scalars: Mapping[tuple[str, str], float], layers: Iterable[str]) -> dict[str, float]:
    """Tag -> value, by statistic in the order of appearance, then by layer: gradients arrive from the last layer to the first."""
    statistics = list(dict.fromkeys(statistic for statistic, _ in scalars))
    known = list(layers)
    keys = [(statistic, layer) for statistic in statistics for layer in known]
    return {f"{statistic}/{layer}": scalars[statistic, layer] for statistic, layer in keys if (statistic, layer) in scalars}
