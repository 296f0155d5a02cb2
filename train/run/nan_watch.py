"""Detection of losses that are not finite, without waiting for the device."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor


class NanWatch:
    """A queue of the losses on their way to the host: there at once on a CPU, copied asynchronously from a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, loss: Tensor) -> None:
        if self._device.type != "cuda":
            self._pending.append((step, loss, None))
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss, non_blocking=True)
        event = torch.cuda.Event()
        # The default is the current device's stream. On another device the event would not wait for the copy.
        event.record(torch.cuda.current_stream(self._device))
        self._pending.append((step, host, event))

    def first_nonfinite(self, wait: bool = False) -> int | None:
        """Return the first step whose loss was NaN or infinite among those that have arrived. `wait`: for all of them first."""
        while self._pending:
            step, loss, event = self._pending[0]
            if event is not None:
                if wait:
                    event.synchronize()
                elif not event.query():
                    return None
            self._pending.popleft()
            if not math.isfinite(float(loss)):
                return step
        return None
