"""Statistics of the weights: their size, their distance from the initial ones, and the actual change in an update."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from train.observe.measurements import MeasurementBuffer
from train.observe.statistics import euclidean_norms, standard_deviations


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
        self._initial_norms = euclidean_norms(list(self._initial.values()))

    @torch.no_grad()
    def measure(self, buffer: MeasurementBuffer) -> None:
        weights = self._weights()
        measured: dict[str, Mapping[str, Tensor]] = {}
        if "weight_std" in self.wanted:
            measured["weight_std"] = _by_name(weights, standard_deviations(list(weights.values())))
        if self._initial:
            measured["weight_distance"] = _by_name(self._initial, distances(weights, self._initial) / self._initial_norms)
        for name in weights:
            buffer.add("", name, {statistic: values[name] for statistic, values in measured.items()})

    def before(self) -> dict[str, Tensor]:
        """Return the state before the update that `after` needs."""
        return self._copy() if "update_ratio" in self.wanted else {}

    @torch.no_grad()
    def after(self, before: Mapping[str, Tensor], buffer: MeasurementBuffer) -> None:
        ratios = distances(self._weights(), before) / euclidean_norms(list(before.values()))
        for name, ratio in _by_name(before, ratios).items():
            buffer.add("", name, {"update_ratio": ratio})

    def _weights(self) -> dict[str, Tensor]:
        return {name: layer.weight.detach() for name, layer in self.layers.items() if isinstance(layer.weight, Tensor)}

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self._weights().items()}


def distances(weights: Mapping[str, Tensor], origins: Mapping[str, Tensor]) -> Tensor:
    """Return |w - origin| of each origin, [n]."""
    return euclidean_norms([weights[name] - origin for name, origin in origins.items()])


def _by_name(names: Iterable[str], values: Tensor) -> dict[str, Tensor]:
    return dict(zip(names, values.unbind(), strict=True))
