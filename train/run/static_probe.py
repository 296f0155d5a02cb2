"""The forward pass on the probe in a fixed place, as a CUDA graph needs it; without a graph it runs anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from train.observe.measurements import Table
from train.observe.observer import Observer
from train.run.device import Placement


class StaticProbe:
    """Observes the probe. `launch` runs `step`, or is set to replay a graph of it."""

    def __init__(self, observer: Observer, placement: Placement) -> None:
        self.observer = observer
        self.placement = placement
        self.launch: Callable[[], None] = self.step
        self._table: Table | None = None

    def step(self) -> None:
        """Observe the probe: what a CUDA graph captures."""
        self.observer.observe_probe(self.placement.autocast(), restore_random=False)
        self._table = self.observer.take()

    def run(self) -> None:
        """Leave what was measured to the observer, which has nothing else."""
        self.launch()
        if self._table:  # copied, since other graphs may use the same memory
            self.observer.put(replace(self._table, numbers=self._table.numbers.clone()))

    def differs(self) -> bool:
        """Return whether an eager pass measures something else, be it in a single bit. Leaves nothing to the observer."""
        of_graph = self._table
        self.step()
        eager = self._numbers()
        self._table = of_graph  # a replay fills the tensor of the capture
        self.launch()
        replayed = self._numbers()
        return not torch.equal(eager.view(torch.uint8), replayed.view(torch.uint8))

    def _numbers(self) -> torch.Tensor:
        assert self._table is not None
        return self._table.numbers.clone()
