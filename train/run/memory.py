"""Memory: how much a run took at most, and what it looks like when there was not enough."""

from __future__ import annotations

import resource
import sys

import torch


def reset_peak(device: torch.device) -> None:
    """Count a run's own peak where one process makes several runs. Only a GPU's can be forgotten, not that of the process."""
    if device.type == "cuda":
        torch.cuda.init()  # the statistics begin with it
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory in use at once: on a GPU what torch allocated there, otherwise what the process held of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


NO_MEMORY = ("can't allocate memory", "error: out of memory", "_STATUS_ALLOC_FAILED")
"""How torch's allocator on the host, CUDA itself (where jobs share a GPU: as a context or pinned memory is made), and cuBLAS and
cuDNN say it; torch raises an exception of its own only for tensors on a GPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that host or device had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
