"""The capture of a step as a CUDA graph, and what it needs before: warm steps, memory, an optimizer that allows it."""

from __future__ import annotations

import copy
import gc
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch

from train.collector import uncollected
from train.run.step import TrainState


class Capture:
    """Warms up and captures steps, on any device and without a graph; `CudaCapture` makes graphs."""

    @contextmanager
    def warming(self, waits: list[str] | None) -> Iterator[None]:  # noqa: ARG002
        """Run the eager steps before a capture inside this context. `waits`: gets the places where they wait for the device."""
        yield

    def shortage(self, copies: int) -> str:  # noqa: ARG002
        """Return why the memory may not do for a graph and for `copies` bytes beside it, or an empty string."""
        return ""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return what repeats `step`. On an error nothing has changed, but see `CudaCapture`."""
        return step


class CudaCapture(Capture):
    """Captures steps of one train state into graphs that share their memory.

    Sharing is safe because every result that outlives its step is copied or lies outside. After a failed capture the graphs made
    before are no longer to be used: they read the seed of dropout from a generator that was replaced.
    """

    def __init__(self, train_state: TrainState) -> None:
        self._train_state = train_state
        self._device = train_state.placement.device
        self._stream = stream_of(self._device)
        self._graphs: list[torch.cuda.CUDAGraph] = []  # kept: torch's allocator remembers a graph whose capture failed
        self._pool: Any = None

    @contextmanager
    def warming(self, waits: list[str] | None) -> Iterator[None]:
        """Run steps on the stream of the capture, as torch demands."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), nullcontext() if waits is None else noting_waits(waits):
            yield
        current.wait_stream(self._stream)

    def shortage(self, copies: int) -> str:
        """Compare the peak of the steps so far with the memory that is free. Call it between two steps."""
        kept = torch.cuda.memory_allocated(self._device)
        free = torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device) - kept
        return shortage_of(torch.cuda.max_memory_allocated(self._device) - kept, copies, free)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of a graph of `step`. Capturing runs nothing and changes nothing."""
        graph, pool = torch.cuda.CUDAGraph(), self._pool
        self._graphs.append(graph)
        self._pool = None  # after an error, the memory of the graphs made before is not for others
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),  # torch does not leave its own if the capture fails
            uncollected(),  # an old graph or tensor that is freed would end the capture
            undone_on_error(self._train_state),
            capturable(self._train_state.optimizer),
            # Threads of the reader may call CUDA meanwhile.
            torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            step()
        self._pool = graph.pool()
        return graph.replay


@lru_cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures of a process: cuBLAS keeps a workspace of 32 MiB for each stream that it has seen."""
    return torch.cuda.Stream(device)


def shortage_of(step: int, copies: int, free: int) -> str:
    """Return the sentence of `Capture.shortage` for a step that takes `step` bytes where `free` bytes are free.

    A graph keeps what a step takes beside weights, optimizer and data; eager steps take as much again.
    """
    needed = 2 * step + copies
    if needed <= free:
        return ""
    return f"it needs {needed / 2**30:.1f} GiB, part of them for eager steps beside it, and {free / 2**30:.1f} GiB are free"


@contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tell Adam that it is captured, inside the context: it refuses otherwise, and warns in eager steps."""
    groups = [group for group in optimizer.param_groups if not group.get("capturable", True)]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group in groups:
            group["capturable"] = False


@contextmanager
def undone_on_error(train_state: TrainState) -> Iterator[None]:
    """Undo on an error what half a captured step leaves behind in Python: gradients, the loss scaler, the mode of the generator.

    Torch does not end the generator's capture mode then, and refuses every later draw from it. Its state is replaced by a copy.
    """
    scaler = vars(train_state.scaler)
    before = {name: value if isinstance(value, torch.Tensor) else copy.copy(value) for name, value in scaler.items()}
    generator = torch.cuda.default_generators[train_state.placement.device.index or 0]
    state = generator.clone_state()
    try:
        yield
    except BaseException:
        train_state.optimizer.zero_grad(set_to_none=True)
        scaler.update(before)
        generator.graphsafe_set_state(state)
        raise


def release_locals(error: BaseException | None) -> None:
    """Release what the functions held in which `error` and its causes were raised.

    The autograd graph of half a step keeps nodes that belong to the stream of the capture, and the next backward pass would use
    them on another one.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()


@contextmanager
def noting_waits(places: list[str]) -> Iterator[None]:
    """Add FILE:LINE of every operation inside the context that makes the host wait for the GPU to `places`."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "synchronizing CUDA operation" in str(warning.message):
            places.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
