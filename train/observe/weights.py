"""Statistics of the weights: their size, their distance from the initial ones, and the actual change in an update."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from train.observe.measurements import MeasurementBuffer
from train.observe.statistics import euclidean_norm, standard_deviation


class WeightObserver:
    """Measures the weights (not the biases) of `layers`. Keeps the initial ones on the device if `weight_distance` is wanted.

    weight_std: over all values, dividing by their number. weight_distance: |w - w_init| / |w_init|. update_ratio:
    |w_after - w_before| / |w_before| around the optimizer's step, so it includes momentum, weight decay, clipping and steps
    skipped by loss scaling. All norms are Euclidean. The first two describe the weights used in the step's forward pass.
    """

    def __init__(self, layers: Mapping[str, nn.Module], wanted: Collection[str]) -> None:
        self.layers = layers
        self.wanted = wanted
        self._initial = self._copy() if "weight_distance" in wanted else {}

    @torch.no_grad()
    def measure(self, buffer: MeasurementBuffer) -> None:
        for name, weight in self._weights():
            statistics: dict[str, Tensor] = {}
            if "weight_std" in self.wanted:
                statistics["weight_std"] = standard_deviation(weight)
            if name in self._initial:
                statistics["weight_distance"] = relative_distance(weight, self._initial[name])
            buffer.add("", name, statistics)

    def before(self) -> dict[str, Tensor]:
        """Return the state before the update that `after` needs."""
        return self._copy() if "update_ratio" in self.wanted else {}

    @torch.no_grad()
    def after(self, before: Mapping[str, Tensor], buffer: MeasurementBuffer) -> None:
        for name, weight in self._weights():
            if name in before:
                buffer.add("", name, {"update_ratio": relative_distance(weight, before[name])})

    def _weights(self) -> list[tuple[str, Tensor]]:
        return [(name, layer.weight.detach()) for name, layer in self.layers.items() if isinstance(layer.weight, Tensor)]

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self._weights()}


def relative_distance(w: Tensor, origin: Tensor) -> Tensor:
    """Return |w - origin| / |origin|."""
    return euclidean_norm(w - origin) / euclidean_norm(origin)
