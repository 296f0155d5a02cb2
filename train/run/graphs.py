"""The steps of a run as CUDA graphs: replaying one costs the host one launch instead of hundreds.

Their bits are to be those of the eager steps. Tests marked `cuda` compare them; so does every deterministic run, once for each
kind of step.

A graph repeats its kernels with the same addresses and numbers. So the batch is copied into tensors that stay; kernels read the
learning rate (`TrainState.rates`) and the seed of dropout from the device; losses go to a table that stays. Gradients are None
before the capture, so every replay writes them into the graph's own memory instead of adding to them. Hooks that run during the
capture become part of the graph, and what they measure is a tensor that each replay fills anew.

The first steps run eagerly, on a stream of their own as torch demands: libraries choose algorithms, and the optimizer takes its
memory. They are steps of the run, so nothing has to be put back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from train.data.contracts import Batch
from train.errors import UsageError
from train.observe.observer import Observer
from train.run.capture import Capture, CudaCapture
from train.run.runner import Kind, StepRunner
from train.run.static_step import Places, StaticStep, changing_tensors, run_both_ways
from train.run.step import Measurement, TrainState

log = logging.getLogger("train")

Choice: TypeAlias = Literal["auto"] | bool

WARM_STEPS = 3
"""Eager steps of a kind before its capture. The last is watched: a graph cannot hold what waits for the device."""

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
    """Return why no capture is tried, or an empty string.

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


@dataclass
class _Way:
    """One kind of step on its way to a graph. `size`: of its batches; those of another size are eager."""

    warm: int = 0
    size: int | None = None
    static: StaticStep | None = None
    reason: str = ""


class GraphedRunner(StepRunner):
    """Runs steps of each kind as replays of a CUDA graph after a few eager ones, or eagerly for a reason.

    `capacity`: the number of train steps for which a result stays valid; `choice`: the value of `trainer.cuda_graph`; `capture`:
    makes the graphs; None: on CUDA, if nothing speaks against it. UsageError where `choice` is True in vain.
    """

    def __init__(
        self, train_state: TrainState, observer: Observer, capacity: int, choice: Choice = "auto", capture: Capture | None = None
    ) -> None:
        super().__init__(train_state, observer)
        self.reason = ""
        self._ways = {kind: _Way() for kind in Kind}
        self._capacity = max(capacity, 1)
        self._choice = choice
        self._places: Places | None = None
        if capture is None and (reason := reason_for_eager(train_state, choice)):
            self._stay_eager(Kind.TRAIN, reason)
        else:
            self._capture = capture or CudaCapture(train_state)
        if train_state.forward is not train_state.model:
            for kind in (Kind.OBSERVED, Kind.HISTOGRAMS):
                self._ways[kind].reason = "a compiled model calls no hooks, so the original is observed"

    @property
    def captured(self) -> list[Kind]:
        """The kinds of steps that are graphs by now."""
        return [kind for kind, way in self._ways.items() if way.static is not None]

    def facts(self) -> dict[str, Any]:
        """Return what became of the captures, for status.json: for each kind that was tried in vain the reason."""
        if not set(self.captured) - {Kind.EVALUATION}:
            waiting = f"no kind of train step was run more than {WARM_STEPS} times"
            return {"cuda_graph": False, "cuda_graph_reason": self.reason or waiting}
        eager = {str(kind): way.reason for kind, way in self._ways.items() if way.reason}
        return {"cuda_graph": True, "cuda_graph_reason": "", "cuda_graph_eager": eager}

    def evaluate(self, batch: Batch) -> Measurement:
        """Run an evaluation step; the results are copied, as they are needed until the end of the split."""
        measured = super().evaluate(batch)
        return Measurement(measured.loss.clone(), measured.correct.clone())

    def _run(self, kind: Kind, batch: Batch) -> Measurement:
        way = self._ways[kind]
        if self.reason or way.reason or way.size not in (None, len(batch.labels)):
            return super()._run(kind, batch)
        if way.static is not None:
            return way.static.run(batch)
        way.size = len(batch.labels)
        return self._warm_up(kind, batch) if way.warm < WARM_STEPS else self._begin(kind, batch)

    def _warm_up(self, kind: Kind, batch: Batch) -> Measurement:
        way, waits = self._ways[kind], list[str]()
        way.warm += 1
        with self._capture.warming(waits if way.warm == WARM_STEPS else None):
            measured = super()._run(kind, batch)
        if waits:
            self._stay_eager(kind, f"it waits for the device at {waits[0]}")
        return measured

    def _begin(self, kind: Kind, batch: Batch) -> Measurement:
        """Capture a kind of step and run it; both ways, where a step has the same bits each time."""
        static = self._captured_step(kind, batch)
        if static is None:
            return super()._run(kind, batch)
        if torch.are_deterministic_algorithms_enabled():
            measured, difference = run_both_ways(static, batch, self.train_state)
            if difference:
                self._stay_eager(kind, f"a replay differs from the eager step in {difference}")
                return super()._run(kind, batch)
        else:
            measured = static.run(batch)
        self._ways[kind].static = static
        log.info("the %s is a CUDA graph", kind)
        return measured

    def _captured_step(self, kind: Kind, batch: Batch) -> StaticStep | None:
        """Return the step as a graph; None if it has to stay eager."""
        copies = 2 * sum(tensor.nbytes for tensor in changing_tensors(self.train_state).values())  # of `run_both_ways`
        if self._choice == "auto" and (shortage := self._capture.shortage(copies)):
            self._stay_eager(kind, shortage)
            return None
        observer = self.observer if kind in (Kind.OBSERVED, Kind.HISTOGRAMS) else None
        static = StaticStep(self._compute[kind], self._places_of(kind, batch), observer)
        try:
            static.launch = self._capture.capture(static.step)
        except Exception as error:
            cause = error.__context__ or error  # ending a failed capture fails again
            self._drop_graphs()  # to be captured again, as `CudaCapture` says
            self._stay_eager(kind, f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}")
            return None
        return static

    def _places_of(self, kind: Kind, batch: Batch) -> Places:
        if kind is Kind.EVALUATION:
            return Places(batch, 1)
        if self._places is None:
            self._places = Places(batch, self._capacity)
        return self._places

    def _drop_graphs(self) -> None:
        for way in self._ways.values():
            way.static = None

    def _stay_eager(self, kind: Kind, reason: str) -> None:
        """Run this kind of step eagerly from now on; all kinds, if it is the train step.

        A demand is for train steps: an evaluation that may be the last thing of a run does not fail it.
        """
        if kind is Kind.TRAIN:
            self.reason = reason
            self._drop_graphs()
        self._ways[kind].reason = reason
        if self._choice is True and kind is not Kind.EVALUATION:
            raise UsageError(f"{OPTION}: the {kind} cannot be a CUDA graph: {reason}. {REMEDY}")
        log.info("the %s is eager, not a CUDA graph: %s", kind, reason)
