"""Device, precision and memory format of a run, and the memory that it uses.

Chosen by rules on the hardware, never by a measurement: a busy machine must not change a result.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from train.config import TrainerSettings
from train.errors import UsageError

GRAPH_OPTION = "trainer.cuda_graph=true"
GRAPH_REMEDY = "Use trainer.cuda_graph=auto, which then trains without one, with the same bits."
_GPU = re.compile(r"(?:gpu|cuda)?[: ]?(?P<index>\d+)|gpu")
"""What other tools call a GPU: 0, gpu, gpu:1, cuda0."""


@dataclass(frozen=True)
class Placement:
    """Device, precision and memory format. `dtype`: type of matrix products under autocast; float32 means no autocast."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    reason: str

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def layout(self) -> str:
        return str(self.memory_format).removeprefix("torch.").removesuffix("_format")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype if self.mixed else torch.bfloat16, enabled=self.mixed)

    @property
    def mixed(self) -> bool:
        return self.dtype is not torch.float32

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, its 4-D weights to the memory format."""
        return model.to(device=self.device).to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]

    def describe(self) -> str:
        """Return the name of the hardware."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"


def choose_placement(trainer: TrainerSettings, place: int | None = None) -> Placement:
    """Resolve `auto`. UsageError when the device is not available.

    `place`: which GPU of this machine is that of this process, in a run on several.
    """
    device = choose_device(trainer.device)
    if place is not None and device.type == "cuda":
        device = torch.device("cuda", place)
    dtype, reason = choose_precision(trainer.precision, device)
    channels_last = trainer.memory_format != "contiguous" and (trainer.memory_format == "channels_last" or device.type != "mps")
    return Placement(device, dtype, torch.channels_last if channels_last else torch.contiguous_format, reason)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    remedy = "Use trainer.device=auto, cpu, cuda, cuda:1 or mps."
    try:
        device = torch.device(name)
    except RuntimeError:
        meant = _GPU.fullmatch(name.lower())
        hint = f" Did you mean trainer.device={':'.join(filter(None, ('cuda', meant['index'])))}?" if meant else ""
        raise UsageError(f"trainer.device={name}: unknown device type. {remedy}{hint}") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise UsageError(f"trainer.device={name}: torch sees {available} device(s) of this type. {remedy}")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def refuse_devices(trainer: TrainerSettings, device: torch.device) -> None:
    """Raise UsageError where a run cannot train on `trainer.devices` devices of this kind, or not as it is set up."""
    option, size = f"trainer.devices={trainer.devices}", trainer.batch_size
    if device.type == "mps":
        raise UsageError(f"{option}: an Apple GPU is one device. Use trainer.devices=1, or trainer.device=cpu.")
    if ":" in trainer.device:
        raise UsageError(f"{option}: trainer.device={trainer.device} names one device. Use trainer.device={device.type}.")
    if size % trainer.devices:
        below = size - size % trainer.devices
        near = " or ".join(f"trainer.batch_size={n}" for n in (below, below + trainer.devices) if n)
        raise UsageError(f"{option}: every device gets as many images, and {size} cannot be divided so. Use {near}.")
    if trainer.epochs == 0 or trainer.max_steps == 0:
        raise UsageError(f"{option}: a run without a train step is one of one device. Use trainer.devices=1.")
    if trainer.compile:
        raise UsageError(f"{option}: trainer.compile=true works on one device only. Use trainer.compile=false.")
    if trainer.cuda_graph is True:
        raise UsageError(f"{option}: trainer.cuda_graph=true works on one device only. Use trainer.cuda_graph=auto.")


def refuse_graph(device: torch.device) -> None:
    """Raise UsageError, as `trainer.cuda_graph=true` cannot be fulfilled on `device`; do nothing on CUDA."""
    if device.type != "cuda":
        raise UsageError(
            f"{GRAPH_OPTION}: a train step can be a CUDA graph on an NVIDIA GPU only, and this run is on {device.type}. "
            f"{GRAPH_REMEDY}"
        )


def choose_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the type and the reason for it."""
    if name != "auto":
        return getattr(torch, name), "requested"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        fast = major >= 8
        return (torch.bfloat16 if fast else torch.float32), f"compute capability {major}.{minor}"
    if device.type == "cpu":
        unit = fast_bfloat16_unit()
        return (torch.bfloat16, f"CPU with {unit}") if unit else (torch.float32, "CPU without fast bfloat16")
    return torch.float32, f"default on {device.type}"


def fast_bfloat16_unit() -> str | None:
    """Return the instruction set of this CPU for fast bfloat16 matrix products; None without one."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    for name in ("amx_bf16", "avx512_bf16"):
        if capabilities.get(name):
            return name
    return None


def configure_determinism(deterministic: bool) -> None:
    """Set torch's process-wide options, both ways because a sweep may run many jobs in one process.

    `deterministic`: reject algorithms that are not bit-exact when repeated, and do not let cuDNN choose by timing. float32 means
    float32: NVIDIA's TF32, which keeps 10 bits of the mantissa and which torch lets convolutions use by default, is off; use
    bfloat16 for speed.
    """
    # Always set: torch reads it once, at the first matrix product of the process, and a later job may be deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Filling is a debugging aid that costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]


def reset_peak(device: torch.device) -> None:
    """Reset the peak, for a process with several runs. Possible only for a GPU: the peak of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.init()  # the statistics exist only after initialisation
        gc.collect()  # models and graphs of runs before, in cycles of references, hold memory
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
