"""The train step as one CUDA graph: replaying it costs the host one launch instead of hundreds.

Its bits are to be those of the eager step; tests marked `cuda` compare them.

A graph repeats its kernels with the same addresses and numbers. So the batch is copied into tensors that stay; kernels read the
learning rate (`TrainState.rates`) and the seed of dropout from the device; losses go to a table that stays. Gradients are None
before the capture, so every replay writes them into the graph's own memory instead of adding to them.

The first steps run eagerly, on a stream of their own as torch demands: libraries choose algorithms, and the optimizer takes its
memory. They are steps of the run, so nothing has to be put back. Capturing runs nothing and changes nothing.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from train.data.contracts import Batch
from train.errors import UsageError
from train.run.step import Measurement, TrainState, set_learning_rate, train_step, update

log = logging.getLogger("train")

Choice: TypeAlias = Literal["auto"] | bool

WARM_STEPS = 3
"""Eager steps before the capture. The last is watched: a graph cannot hold what waits for the device."""

OPTION = "trainer.cuda_graph=true"
REMEDY = "Use trainer.cuda_graph=auto, which then trains without one, with the same bits."
CAPTURED_PACKAGES = ("torch", "torchvision", "train")
"""`auto` trusts their parts to do the same at every step."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_graph(device: torch.device) -> None:
    """Raise UsageError, as `trainer.cuda_graph=true` cannot be fulfilled on `device`; do nothing on CUDA."""
    if device.type != "cuda":
        raise UsageError(
            f"{OPTION}: a train step can be a CUDA graph on an NVIDIA GPU only, and this run is on {device.type}. {REMEDY}"
        )


def reason_for_eager(train_state: TrainState, choice: Choice) -> str:
    """Return why no capture of the train step is tried, or an empty string.

    `choice`: the value of `trainer.cuda_graph`. True captures parts of the user's own, too. They may count steps in Python, which
    no check can see.
    """
    device, optimizer = train_state.placement.device, train_state.optimizer
    if choice is False:
        return "trainer.cuda_graph=false"
    if device.type != "cuda":
        return f"the device is {device.type}"
    if not train_state.rates:
        return f"the optimizer {type(optimizer).__name__} reads its learning rate on the host"
    return "" if choice is True else foreign_part(train_state.model, optimizer)


def foreign_part(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Return what the first part of the train step is that is neither torch's, torchvision's nor ours, or an empty string."""
    for name, part in [*model.named_modules(), ("the optimizer", optimizer)]:
        kind = type(part)
        if kind.__module__.partition(".")[0] not in CAPTURED_PACKAGES:
            return f"{name or 'the model'} is a {kind.__module__}.{kind.__qualname__}, which may change from step to step"
        if "forward" in vars(part) or any(getattr(part, hooks, None) for hooks in _HOOKS):
            return f"{name or 'the model'} has a hook or a forward of its own, which may change from step to step"
    return ""


def memory_shortage(device: torch.device) -> str:
    """Return why the memory of a GPU may not do for a graph, or an empty string. Call it between two steps.

    A graph keeps what a step takes beside weights, optimizer and data; eager steps, which observe, take as much again.
    """
    kept = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - kept
    return shortage_of(torch.cuda.max_memory_allocated(device) - kept, free)


def shortage_of(step: int, free: int) -> str:
    """Return the sentence of `memory_shortage` for a step that takes `step` bytes where `free` bytes are free."""
    if 2 * step <= free:
        return ""
    return f"it needs {2 * step / 2**30:.1f} GiB, half of them for eager steps that observe, and {free / 2**30:.1f} GiB are free"


class StaticStep:
    """A train step whose input and results have fixed places, as a CUDA graph needs them; without a graph it runs anywhere.

    `like`: a batch of the run; `capacity`: the number of steps for which a result stays valid.
    """

    def __init__(self, train_state: TrainState, like: Batch, capacity: int) -> None:
        device = like.images.device
        self.train_state = train_state
        self.batch = Batch(torch.empty_like(like.images), torch.empty_like(like.labels))
        self.results = Measurement(torch.zeros(capacity, device=device), torch.zeros(capacity, dtype=torch.int64, device=device))
        self.launch: Callable[[], None] = self.step
        self._rows = torch.arange(capacity, device=device)
        self._next = torch.zeros((), dtype=torch.int64, device=device)
        self._done = 0

    def step(self) -> None:
        """Train on the batch in its place, and note the results in the next row of the table, without a number from the host."""
        measured = update(self.train_state, self.batch)
        here = self._rows == self._next
        torch.where(here, measured.loss, self.results.loss, out=self.results.loss)
        torch.where(here, measured.correct, self.results.correct, out=self.results.correct)
        self._next.add_(1).remainder_(len(self._rows))

    def run(self, batch: Batch, lr_factor: float) -> Measurement:
        """Run a train step as `train_step` does; return views of the table."""
        set_learning_rate(self.train_state, lr_factor)
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.launch()
        row = self._done % len(self._rows)
        self._done += 1
        return Measurement(self.results.loss[row], self.results.correct[row])


class GraphedStep:
    """Train steps that become replays of a CUDA graph after WARM_STEPS eager ones, or stay eager for a `reason`.

    `capacity`: as in `StaticStep`; `choice`: the value of `trainer.cuda_graph`. UsageError where it is True in vain.
    """

    def __init__(self, train_state: TrainState, capacity: int, choice: Choice = "auto") -> None:
        self.train_state = train_state
        self.captured = False
        self.reason = ""
        self._capacity = max(capacity, 1)
        self._choice = choice
        self._device = train_state.placement.device
        self._static: StaticStep | None = None
        self._warm = 0
        if reason := reason_for_eager(train_state, choice):
            self._stay_eager(reason)
        else:
            self._stream = torch.cuda.Stream(self._device)

    def run(self, batch: Batch, lr_factor: float) -> Measurement:
        """Run a train step as `train_step` does."""
        if self._static is None and not self.reason:
            if self._warm < WARM_STEPS:
                return self._warm_up(batch, lr_factor)
            if self._choice == "auto" and (shortage := memory_shortage(self._device)):
                self._stay_eager(shortage)
            else:
                self._capture(batch)
        return train_step(self.train_state, batch, lr_factor) if self._static is None else self._static.run(batch, lr_factor)

    def facts(self) -> dict[str, Any]:
        """Return what became of the capture, for status.json."""
        waiting = "" if self.captured else f"no more than {WARM_STEPS} steps were without observation"
        return {"cuda_graph": self.captured, "cuda_graph_reason": self.reason or waiting}

    def _warm_up(self, batch: Batch, lr_factor: float) -> Measurement:
        self._warm += 1
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        waits: list[str] = []
        watched = noting_waits(waits) if self._warm == WARM_STEPS else nullcontext()
        with torch.cuda.stream(self._stream), watched:
            measured = train_step(self.train_state, batch, lr_factor)
        current.wait_stream(self._stream)
        if waits:
            self._stay_eager(f"it waits for the device at {waits[0]}")
        return measured

    def _capture(self, batch: Batch) -> None:
        static, graph = StaticStep(self.train_state, batch, self._capacity), torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._device)),  # torch does not leave its own if the capture fails
                undone_on_error(self.train_state),
                capturable(self.train_state.optimizer),
                # Threads of the reader may call CUDA meanwhile.
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                static.step()
        except Exception as error:
            cause = error.__context__ or error  # ending a failed capture fails again
            self._stay_eager(f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}")
            return
        static.launch = graph.replay
        self._static, self.captured = static, True
        log.info("the train step is a CUDA graph")

    def _stay_eager(self, reason: str) -> None:
        self.reason = reason
        if self._choice is True:
            raise UsageError(f"{OPTION}: the train step cannot be a CUDA graph: {reason}. {REMEDY}")
        log.info("the train step is eager, not a CUDA graph: %s", reason)


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
