"""The training loop. It depends on steps, readers and sinks; not on Hydra, TensorBoard or rich."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import nn

from train.data.contracts import Batch
from train.observe.observer import Observer, due
from train.parts.contracts import Schedule
from train.run.divergence import SNAPSHOT_EVERY, DivergenceWatch
from train.run.observed_step import Stepper
from train.run.recorder import Recorder, TrainPlan
from train.run.runner import ClassCounter, StepRunner, evaluate, score_of, scores_beside
from train.run.signals import StopSignal
from train.run.step import Score, TrainState
from train.sinks.contracts import Sink


class Reader(Protocol):
    """The interface of a split's reader that the loop needs."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def eval_batches(self) -> Iterator[Batch]: ...


class Saver(Protocol):
    """The interface that the loop needs to save its state."""

    def due(self, done: int) -> bool: ...
    def save(self, loop: Loop) -> None: ...
    def keep_best(self, done: int, model: nn.Module) -> None: ...


class NoSaver:
    """A saver that stores nothing."""

    def due(self, done: int) -> bool:  # noqa: ARG002
        return False

    def save(self, loop: Loop) -> None:
        """Do nothing."""

    def keep_best(self, done: int, model: nn.Module) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TrainResult:
    """The ending of the loop after `steps` updates: loss of the last record, last validation score, training time in seconds."""

    status: Literal["done", "diverged", "interrupted"]
    reason: str
    steps: int
    train_loss: float | None
    val: Score | None
    train_s: float


@dataclass
class Loop:
    """One training: its train state, data, plan and sinks. `began`: the value of `time.perf_counter` when the run started.

    `runner`: what runs the steps; None: eagerly.
    """

    train_state: TrainState
    schedule: Schedule
    train: Reader
    val: Reader | None
    plan: TrainPlan
    observer: Observer
    sink: Sink
    stop: StopSignal
    began: float = field(default_factory=time.perf_counter)
    saver: Saver = field(default_factory=NoSaver)
    runner: StepRunner | None = None

    def __post_init__(self) -> None:
        self.runner = self.runner or StepRunner(self.train_state, self.observer)
        moments = self.runner.moments_for(self.plan.batch_size, self.plan.total, capacity=SNAPSHOT_EVERY)
        self.recorder = Recorder(self.sink, self.plan, moments, self.began, waits=not self.runner.runs_ahead)
        self.stepper = Stepper(self.runner, self.schedule, self.plan, self.recorder)
        self.divergence = DivergenceWatch(self.train_state, keep_snapshots=bool(self.observer.layers))
        self.steps = 0
        """Updates done."""
        self.evaluated = True
        """Whether the evaluations due after the last step (validation split, probe) are done."""

    def run(self) -> TrainResult:
        """Train from the current step until the plan ends, the run diverges, or a signal arrives.

        It diverges when a loss is not finite, or after the last step the weights or the validation score.
        """
        if self.plan.total == 0:
            self.stepper.observe_initial(self.train.epoch(0))
        if not self.evaluated:
            self.evaluate_when_due()
        try:
            with self.recorder.clock.running():
                for step, batch in () if self.stop else self.batches(self.steps):
                    if not self.train_on(step, batch):
                        break
        finally:
            self.recorder.settle()
        status: Literal["done", "interrupted"] = "interrupted" if self.stop else "done"
        self.save()
        if self.divergence.failed_step is not None:
            self.replay()
            self.record_training()
            return self.result("diverged", self.divergence.reason)
        if status == "done" and (reason := self.bad_score("validation", self.recorder.val)):
            return self.result("diverged", reason)
        return self.result(status)

    def bad_score(self, split: str, score: Score | None) -> str:
        """Return the reason if the run diverged because its score after the last update is not finite; else an empty string."""
        if not self.steps or score is None or math.isfinite(score.loss):
            return ""
        return f"the {split} loss was not finite ({score.loss}) after the last update"

    def result(self, status: Literal["done", "diverged", "interrupted"], reason: str = "") -> TrainResult:
        recorder = self.recorder
        recorder.settle()
        return TrainResult(status, reason, self.steps, recorder.train_loss, recorder.val, recorder.clock.seconds)

    def batches(self, start: int) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) of the plan from step `start` on."""
        step, length = start, max(self.plan.steps_per_epoch, 1)
        for epoch in range(start // length, -(-self.plan.total // length)):
            self.stepper.runner.begin_epoch(epoch)
            for batch in self.train.epoch(epoch, step % length):
                if step == self.plan.total:
                    return
                yield step, batch
                step += 1

    def train_on(self, step: int, batch: Batch) -> bool:
        """Train on one batch, then record, evaluate and save where that is due. Return whether to continue."""
        self.divergence.before_step(step)
        measurement = self.stepper.run(step, batch)
        self.recorder.unrecorded.append(measurement)
        self.divergence.after_step(step, measurement.loss)
        done = self.steps = step + 1
        snapshot_due = due(done, SNAPSHOT_EVERY, self.plan.total)
        record_due = due(done, self.plan.record_every, self.plan.total)
        # Recording and observing wait anyway, and are to record nothing after a failed step. The wait also keeps training out of
        # evaluation time.
        observed_next = self.observer.due(done, self.plan.total - 1)
        if self.diverged(wait=snapshot_due or record_due or observed_next or self.validation_due() or self.probe_due()):
            return False
        if snapshot_due:
            self.recorder.record_moments()
        self.sink.progress(done, self.plan.epochs(done), {})
        if record_due:
            self.record_training()
        self.evaluate_when_due()
        if self.stop:
            return False
        if done < self.plan.total and (self.stop.pop_save_request() or self.saver.due(done)):
            self.save()
        return self.divergence.failed_step is None

    def save(self) -> None:
        """Save the state, unless the loss is not finite: such a run cannot resume."""
        if not self.diverged(wait=True) and self.plan.total:
            self.recorder.settle()
            self.saver.save(self)

    def diverged(self, wait: bool) -> bool:
        """Return whether a loss was not finite, or after the last step a weight.

        The updates made before such a loss reached the host no longer count. `wait`: for the losses that are on their way.
        """
        failed_step = self.divergence.find_failure(wait)
        if failed_step is None and 0 < self.steps == self.plan.total:
            failed_step = self.divergence.check_weights(self.steps - 1)
        if failed_step is None:
            return False
        self.recorder.drop_last(self.steps - (failed_step + 1))
        self.steps = failed_step + 1
        return True

    def replay(self) -> None:
        """Replay the steps since the snapshot with hooks on each, then restore the train state."""
        if self.divergence.snapshot is not None:
            self.recorder.record_moments(before=self.divergence.snapshot.step)
            self.divergence.replay(self.steps, self.batches, self.stepper.replay, self.stop)

    def record_training(self) -> None:
        self.recorder.record_training(self.steps, self.train_state.optimizer.param_groups[0]["lr"])

    def evaluate_when_due(self) -> None:
        """Evaluate the validation split and the probe where due. A signal defers it until the run resumes."""
        self.evaluated = not self.validation_due() or self.validate()
        if self.evaluated and self.probe_due():
            self.stepper.observe_probe()
            self.stepper.record_observation(self.steps)

    def validation_due(self) -> bool:
        return self.val is not None and due(self.steps, self.plan.evaluate_every * self.plan.steps_per_epoch, self.plan.total)

    def probe_due(self) -> bool:
        return due(self.steps, self.plan.steps_per_epoch, self.plan.total)

    def validate(self) -> bool:
        """Evaluate and record the validation split. Return False, and record nothing, when a signal interrupts it."""
        assert self.val is not None
        with self.recorder.clock.paused():
            score = self.score(self.val)
            beside = None if score is None else self.scores_beside(self.val, "val")
            self.train_state.model.train()
        if score is None or beside is None:
            return False
        if self.recorder.record_validation(self.steps, score, beside):
            self.saver.keep_best(self.steps, self.train_state.scored)
        return True

    def score(self, split: Reader) -> Score | None:
        """Return the score on a split; None when a signal interrupts it."""
        return evaluate(self.stepper.runner, split.eval_batches(), self.stop)

    def scores_beside(self, split: Reader, name: str) -> dict[str, float] | None:
        """Return the scores of further models on the split `name`, by tag; None when a signal interrupts it."""
        return scores_beside(self.train_state, split.eval_batches, name, self.stop)

    def score_by_class(self, split: Reader, classes: int) -> tuple[Score | None, list[int]]:
        """Return the score on a split, as `score` does, and how many images of each class are classified right."""
        counter = ClassCounter(self.train_state.scored, self.train_state.placement, classes)
        return score_of(self.train_state.scored, counter.evaluate, split.eval_batches(), self.stop), counter.counts.tolist()

    def score_test(self, split: Reader, classes: int) -> tuple[Score | None, list[int], dict[str, float] | None]:
        """Return the score on the test split, the images of each class that are classified right, and `scores_beside`."""
        score, right = self.score_by_class(split, classes)
        return score, right, None if score is None else self.scores_beside(split, "test")

    def state(self) -> dict[str, Any]:
        """Return everything that the next update, the next record or the end depends on: the content of a checkpoint."""
        snapshot = self.divergence.snapshot
        # Names of format 1: `bookmark` is the snapshot, `looked` is `evaluated`.
        own = {"bookmark": snapshot.state() if snapshot else None, "steps": self.steps, "looked": self.evaluated}
        return self.train_state.state() | self.recorder.state() | own

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the content of a checkpoint into a new loop."""
        self.train_state.load_state(state)
        self.recorder.load_state(state, self.train_state.placement.device)
        if state["bookmark"]:
            self.divergence.load_snapshot(state["bookmark"])
        self.steps, self.evaluated = state["steps"], state["looked"]
