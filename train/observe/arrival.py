"""Numbers on their way from the device to the host, which goes on meanwhile."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

_free: dict[tuple[torch.dtype, int], list[Tensor]] = defaultdict(list)
"""Pinned memory of numbers that have arrived, by type and length. Allocating it makes the host wait."""


class Arrival:
    """A copy of `numbers`, which may change afterwards: there at once on a CPU, asynchronous from a GPU."""

    def __init__(self, numbers: Tensor) -> None:
        self._shape = numbers.shape
        self._event: torch.cuda.Event | None = None
        if numbers.device.type != "cuda":
            self._host = numbers.detach().cpu().clone()
            return
        length = 1 << max(numbers.numel() - 1, 0).bit_length()  # few lengths, so that the memory is used again
        kept = _free[numbers.dtype, length]
        self._host = kept.pop() if kept else torch.empty(length, dtype=numbers.dtype, pin_memory=True)
        self._host[: numbers.numel()].copy_(numbers.detach().reshape(-1), non_blocking=True)
        self._event = torch.cuda.Event()
        # The default is the current device's stream. On another device the event would not wait for the copy.
        self._event.record(torch.cuda.current_stream(numbers.device))

    @property
    def is_there(self) -> bool:
        """Whether `take` would not wait."""
        return self._event is None or self._event.query()

    def take(self) -> Tensor:
        """Wait for the numbers and return them, on the host. Call it once: others use the memory of the copy afterwards."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        numbers = self._host[: self._shape.numel()].reshape(self._shape).clone()
        _free[self._host.dtype, len(self._host)].append(self._host)
        return numbers
