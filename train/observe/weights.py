"""The weights themselves: how large they are, how far from where they began, and what an update really does to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from train.observe.measurements import MeasurementBuffer
from train.observe.statistics import euclidean_norm, standard_deviation


class WeightObserver:
    """Watches the weights (not the biases) of `layers`. The initial ones are kept on the device if `weight_distance` is wanted.

    weight_std: over all values, dividing by their number. weight_distance: |w - w_init| / |w_init|. update_ratio: |w_after -
    w_before| / |w_before| around the optimizer's step, so that momentum, weight decay, clipping and a step that loss scaling
    left out are in it. All norms are Euclidean. The first two are of the weights that the step's forward pass used.
    """

    def __init__(self, layers: Mapping[str, nn.Module], wanted: Collection[str]) -> None:
        self.layers = layers
        self.wanted = wanted
        self._initial = self._copy() if "weight_distance" in wanted else {}

    @torch.no_grad()
    def measure(self, buffer: MeasurementBuffer) -> None:
        for name, weight in self._weights():
            found: dict[str, Tensor] = {}
            if "weight_std" in self.wanted:
                found["weight_std"] = standard_deviation(weight)
            if name in self._initial:
                found["weight_distance"] = relative_distance(weight, self._initial[name])
            buffer.put("", name, found)

    def before(self) -> dict[str, Tensor]:
        """What `after` needs of the time before the update."""
        return self._copy() if "update_ratio" in self.wanted else {}

    @torch.no_grad()
    def after(self, before: Mapping[str, Tensor], buffer: MeasurementBuffer) -> None:
        for name, weight in self._weights():
            if name in before:
                buffer.put("", name, {"update_ratio": relative_distance(weight, before[name])})

    def _weights(self) -> list[tuple[str, Tensor]]:
        return [(name, layer.weight.detach()) for name, layer in self.layers.items() if isinstance(layer.weight, Tensor)]

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self._weights()}


def relative_distance(w: Tensor, origin: Tensor) -> Tensor:
    """|w - origin| / |origin|."""
    return euclidean_norm(w - origin) / euclidean_norm(origin)
