"""The processes that train one run together. For a single process, as nearly always, everything here is trivial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

PATIENCE = timedelta(days=7)
"""How long a rank waits for another: rank 0 may write a large checkpoint, and a process may be stopped for a night."""


@dataclass(eq=False)
class World:
    """The `size` processes of a run, one per device, and the `rank` of this one; rank 0 records what there is to record.

    Collectives are to be called by all ranks in the same order, after `connect`.
    """

    rank: int = 0
    size: int = 1

    def connect(self, store: Store, device: torch.device) -> None:
        """Make the process groups: one for tensors on `device`, one on the CPU for what only the hosts have to know.

        A rank that dies is noticed by its connections, or by who started it; no collective ends because others take their time.
        """
        if self.is_alone:
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        groups = PrefixStore("groups", store)
        dist.init_process_group(backend, store=groups, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        self._control: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def close(self) -> None:
        """Leave the process groups."""
        if not self.is_alone and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def part(self, images: int) -> slice:
        """Return this rank's part of a batch, of which every rank has as many images."""
        share = images // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all ranks, the same bits on each. It carries gradients as of the sum of all ranks' losses."""
        return values if self.is_alone else _Mean.apply(values, self.size)  # pyright: ignore[reportReturnType]

    def gathered(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, [size, ...]."""
        if self.is_alone:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def first_says(self, number: int) -> int:
        """Return the number that rank 0 gives, so that all do the same. The hosts wait for each other, the devices do not."""
        if self.is_alone:
            return number
        value = torch.tensor(number)
        dist.broadcast(value, 0, group=self._control)
        return int(value)

    def from_first(self, value: Any) -> Any:
        """Return what rank 0 gives, anything that can be pickled."""
        if self.is_alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, group=self._control, device=torch.device("cpu"))
        return values[0]

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of these tensors, all of one type and on one device, by its mean over all ranks, in one collective."""
        if self.is_alone or not tensors:
            return
        flat = _mean_of(torch.cat([tensor.flatten() for tensor in tensors]), self.size)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @torch.no_grad()
    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of these tensors by that of rank 0."""
        for tensor in () if self.is_alone else tensors:
            dist.broadcast(tensor, 0)


def _mean_of(values: Tensor, size: int) -> Tensor:
    """Return the mean over all ranks, in place."""
    dist.all_reduce(values)
    return values.div_(size)


class _Mean(torch.autograd.Function):
    """The mean over all ranks. Each rank's input enters the mean of every rank, so its gradient is the mean of all gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _mean_of(values.clone(memory_format=torch.contiguous_format), size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _mean_of(gradients[0].clone(memory_format=torch.contiguous_format), ctx.size), None


ALONE = World()
