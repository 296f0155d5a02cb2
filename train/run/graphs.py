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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from train.data.contracts import Batch
from train.errors import UsageError
from train.observe.observer import Observer
from train.run.capture import Capture, CudaCapture, release_locals
from train.run.device import GRAPH_OPTION, GRAPH_REMEDY
from train.run.graph_choice import Choice, reason_for_eager
from train.run.runner import Kind, StepRunner
from train.run.static_probe import StaticProbe
from train.run.static_step import Form, Places, StaticStep, changing_tensors, form_of, run_both_ways
from train.run.step import Measurement, TrainState, update

log = logging.getLogger("train")

WARM_STEPS = 3
"""Eager steps before a capture. Train steps warm up for each other, observed or not; each kind has to be run once itself. The
last is watched: a graph cannot hold what waits for the device."""

PROBE = "observation of the probe"
TRAINING = (Kind.TRAIN, Kind.OBSERVED, Kind.HISTOGRAMS)


@dataclass
class _Way:
    """One kind of step on its way to a graph. `form`: of its batches; those of another form are eager."""

    warm: int = 0
    form: Form | None = None
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
        self._probe: StaticProbe | None = None
        self._probe_reason = ""
        self._moments_reason = ""
        if capture is None and (reason := reason_for_eager(train_state, choice)):
            self._stay_eager(Kind.TRAIN, reason)
        else:
            self._capture = capture or CudaCapture(train_state)
        if not train_state.calls_hooks:
            for kind in (Kind.OBSERVED, Kind.HISTOGRAMS):
                self._ways[kind].reason = "a compiled model calls no hooks, so the original is observed"

    @property
    def runs_ahead(self) -> bool:
        """As of every runner; also where steps are as those of a GPU, without one."""
        return super().runs_ahead or not self.reason

    @property
    def captured(self) -> list[Kind]:
        """The kinds of steps that are graphs by now."""
        return [kind for kind, way in self._ways.items() if way.static is not None]

    @property
    def _trains_by_graph(self) -> bool:
        return any(self._ways[kind].static for kind in TRAINING)

    def facts(self) -> dict[str, Any]:
        """Return what became of the captures, for status.json: for each kind that was tried in vain the reason."""
        if not self._trains_by_graph:
            waiting = f"a train step is captured after {WARM_STEPS} eager ones, and no kind was run again then"
            return {"cuda_graph": False, "cuda_graph_reason": self.reason or waiting}
        eager = {str(kind): way.reason for kind, way in self._ways.items() if way.reason}
        eager |= {PROBE: self._probe_reason} if self._probe_reason else {}
        return {"cuda_graph": True, "cuda_graph_reason": "", "cuda_graph_eager": eager}

    def begin_epoch(self, epoch: int) -> bool:
        """Prepare the model for an epoch; steps that are others than before are captured anew."""
        changed = super().begin_epoch(epoch)
        for kind, way in self._ways.items() if changed else ():
            if kind is not Kind.EVALUATION:
                way.static, way.warm = None, 0
        return changed

    def evaluate(self, batch: Batch) -> Measurement:
        """Run an evaluation step; the results are copied, as they are needed until the end of the split."""
        measured = super().evaluate(batch)
        return Measurement(measured.loss.clone(), measured.correct.clone())

    def observe_probe(self) -> None:
        """Observe the probe as a replay, once train steps are replays."""
        if self.observer.probe is None or self._probe_reason or not self._trains_by_graph:
            super().observe_probe()
            return
        if self._probe is None:
            super().observe_probe()  # warms up, and is what counts
            self._probe = self._captured_probe(StaticProbe(self.observer, self.train_state.placement))
        else:
            self._probe.run()

    def _captured_probe(self, probe: StaticProbe) -> StaticProbe | None:
        """Return the probe with a graph; None if it stays eager."""
        measured = self.observer.take()
        self._probe_reason = self._shortage(0)
        if not self._probe_reason:
            launch, self._probe_reason = self._captured(probe.step)
            probe.launch = launch or probe.step
        if not self._probe_reason and torch.are_deterministic_algorithms_enabled() and probe.differs():
            self._probe_reason = "a replay differs from the eager pass"
        if measured is not None:
            self.observer.put(measured)
        log.info(
            "the %s is %s", PROBE, f"eager, not a CUDA graph: {self._probe_reason}" if self._probe_reason else "a CUDA graph"
        )
        return None if self._probe_reason else probe

    def _run(self, kind: Kind, batch: Batch) -> Measurement:
        way, form = self._ways[kind], form_of(batch)
        if self.reason or way.reason or way.form not in (None, form):
            return super()._run(kind, batch)
        if way.static is not None:
            return self._replay(kind, way.static, batch)
        way.form = form
        return self._begin(kind, batch) if self._is_warm(kind) else self._warm_up(kind, batch)

    def _replay(self, kind: Kind, static: StaticStep, batch: Batch) -> Measurement:
        measured = static.run(batch)
        if kind is Kind.TRAIN:
            self.moments.keep()
        return measured

    def _is_warm(self, kind: Kind) -> bool:
        return self._ways[kind].warm > 0 and self._steps_before(kind) >= WARM_STEPS

    def _steps_before(self, kind: Kind) -> int:
        return sum(self._ways[other].warm for other in (TRAINING if kind in TRAINING else (kind,)))

    def _warm_up(self, kind: Kind, batch: Batch) -> Measurement:
        way, waits = self._ways[kind], list[str]()
        way.warm += 1
        with self._capture.warming(waits if self._steps_before(kind) >= WARM_STEPS else None):
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
            if kind is Kind.TRAIN:
                self.moments.keep()
        else:
            measured = self._replay(kind, static, batch)
        self._ways[kind].static = static
        log.info("the %s is a CUDA graph", kind)
        if kind is Kind.TRAIN:
            self._capture_moments()
        return measured

    def _capture_moments(self) -> None:
        if not self.moments.layers or self._moments_reason:
            return
        self.moments.launch, self._moments_reason = self._captured(self.moments.fill)
        if self._moments_reason:
            log.info("the moments of batch norms are computed eagerly: %s", self._moments_reason)

    def _captured_step(self, kind: Kind, batch: Batch) -> StaticStep | None:
        """Return the step as a graph; None if it has to stay eager."""
        twice = 2 * sum(tensor.nbytes for tensor in changing_tensors(self.train_state).values())  # of `run_both_ways`
        if reason := self._shortage(twice):
            self._stay_eager(kind, reason)
            return None
        observer = self.observer if kind in (Kind.OBSERVED, Kind.HISTOGRAMS) else None
        compute = self._update_in_place if kind is Kind.TRAIN else self._compute[kind]
        static = StaticStep(compute, self._places_of(kind, batch), observer)
        launch, reason = self._captured(static.step)
        if launch is None:
            self._stay_eager(kind, reason)
            return None
        static.launch = launch
        return static

    def _shortage(self, copies: int) -> str:
        """Return why the memory may not do for a graph and `copies` bytes beside it, or an empty string.

        Where a graph is demanded, it is tried whatever the memory.
        """
        return self._capture.shortage(copies) if self._choice == "auto" else ""

    def _captured(self, step: Callable[[], None]) -> tuple[Callable[[], None] | None, str]:
        """Return the replay of a graph of `step`, or None and the reason."""
        try:
            return self._capture.capture(step), ""
        except Exception as error:
            cause = error.__context__ or error  # ending a failed capture fails again
            release_locals(error)
            self._drop_graphs()  # to be captured again, as `CudaCapture` says
            return None, f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"

    def _update_in_place(self, batch: Batch) -> Measurement:
        with self.moments.storing_in_place():
            return update(self.train_state, batch)

    def _places_of(self, kind: Kind, batch: Batch) -> Places:
        if kind is Kind.EVALUATION:
            return Places(batch, 1)
        if self._places is None:
            self._places = Places(batch, self._capacity)
        return self._places

    def _drop_graphs(self) -> None:
        self._probe = self.moments.launch = None
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
            raise UsageError(f"{GRAPH_OPTION}: the {kind} cannot be a CUDA graph: {reason}. {GRAPH_REMEDY}")
        log.info("the %s is eager, not a CUDA graph: %s", kind, reason)
