"""Memory: the peak use of a run, and the detection of out-of-memory errors."""

from __future__ import annotations

import resource
import sys

import torch


def reset_peak(device: torch.device) -> None:
    """Reset the peak, for a process with several runs. Possible only for a GPU: the peak of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.init()  # the statistics exist only after initialisation
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated by torch on a GPU, otherwise resident host memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "error: out of memory", "_STATUS_ALLOC_FAILED")
"""Messages of torch's host allocator, of CUDA itself (creating a context or pinned memory on a shared GPU), and of cuBLAS and
cuDNN. Torch raises its own exception only for tensors on a GPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that host or device had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
