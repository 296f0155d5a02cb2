"""The training loop. It depends on steps, readers and sinks; not on Hydra, TensorBoard or rich."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import nn

from train import rng
from train.data.contracts import Batch
from train.observe.batch_moments import BatchMoments
from train.observe.observer import Observer, due
from train.parts.contracts import Schedule
from train.parts.isolation import backward_isolated
from train.run.nan_watch import NanWatch
from train.run.signals import StopSignal
from train.run.snapshot import Snapshot
from train.run.step import Measurement, TrainState, eval_step, train_step, training_loss
from train.sinks.contracts import Record, Sink

SNAPSHOT_EVERY = 50  # steps between two snapshots: the maximum number of steps to replay when the loss is not finite


class Reader(Protocol):
    """The interface of a split's reader that the loop needs."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def eval_batches(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainPlan:
    """Durations in steps; `total` is the number of steps that will run."""

    total: int
    steps_per_epoch: int
    batch_size: int
    record_every: int
    evaluate_every: int
    dropout_seed: int


@dataclass(frozen=True)
class Score:
    """The mean loss and the accuracy (0 to 1) over `examples` images."""

    loss: float
    accuracy: float
    examples: int

    def values(self, split: str) -> dict[str, float]:
        """Return the values under the tags of their record."""
        return {f"loss/{split}": self.loss, f"accuracy/{split}": self.accuracy}


@dataclass(frozen=True)
class Best:
    """The best score on the validation split so far, and the number of updates before it."""

    step: int
    score: Score


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


@dataclass
class TrainResult:
    """The ending of the loop after `steps` updates: loss of the last record, last validation score, training time in seconds."""

    status: Literal["done", "diverged", "interrupted"] = "done"
    reason: str = ""
    steps: int = 0
    train_loss: float | None = None
    val: Score | None = None
    train_s: float = 0.0


@dataclass
class Loop:
    """One training: its train state, data, plan and sinks, and the measurements since the last record."""

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
    result: TrainResult = field(default_factory=TrainResult)
    unrecorded: list[Measurement] = field(default_factory=list)
    best: Best | None = None
    evaluated: bool = True  # whether the evaluations due after the last step (validation split, probe) are done
    snapshot: Snapshot | None = None

    def run(self) -> TrainResult:
        """Train from the current step until the plan ends, the loss is not finite, or a signal arrives."""
        if self.plan.total == 0:
            self.observe_only()
        if not self.evaluated:
            self.evaluate_when_due(self.result.steps)
        for step, batch in () if self.stop else self.batches(self.result.steps):
            measurement = self.run_step(step, batch)
            self.unrecorded.append(measurement)
            self.nan_watch.add(step, measurement.loss)
            done = self.result.steps = step + 1
            snapshot_due = due(done, SNAPSHOT_EVERY, self.plan.total)
            if self.check_divergence(
                wait=snapshot_due or self.evaluation_due(done)
            ):  # the wait also keeps training out of evaluation time
                break
            if snapshot_due:
                self.record_moments()
            self.sink.progress(done, self.epochs(done), {})
            if due(done, self.plan.record_every, self.plan.total):
                self.record_training(done)
            self.evaluate_when_due(done)
            if self.stop:
                break
            if done < self.plan.total and (self.stop.pop_save_request() or self.saver.due(done)):
                self.save()
            if self.result.status == "diverged":
                break
        if self.stop and self.result.status != "diverged":
            self.result.status = "interrupted"
        self.save()
        if self.result.status == "diverged":
            self.replay()
            self.record_training(self.result.steps)
        return self.result

    def __post_init__(self) -> None:
        self.nan_watch = NanWatch(self.train_state.placement.device)
        self.epoch_began: float | None = None
        self.moments = BatchMoments(
            self.observer.normalized_layers, self.plan.batch_size, self.plan.total, capacity=SNAPSHOT_EVERY
        )

    def save(self) -> None:
        """Save the state, unless the loss is not finite: such a run cannot resume."""
        if self.result.status != "diverged" and not self.check_divergence(wait=True) and self.plan.total:
            self.saver.save(self)

    def batches(self, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) of the plan from step `start` on, and time the epochs."""
        step, length = start, max(self.plan.steps_per_epoch, 1)
        for epoch in range(start // length, -(-self.plan.total // length)):
            self.train_state.model.train()
            self.epoch_began = time.perf_counter()
            try:
                for batch in self.train.epoch(epoch, step % length):
                    if step == self.plan.total:
                        return
                    yield step, batch
                    step += 1
            finally:
                self.result.train_s += self.epoch_s()
                self.epoch_began = None

    def epoch_s(self) -> float:
        """Return the seconds since the epoch began, evaluations included."""
        return 0.0 if self.epoch_began is None else time.perf_counter() - self.epoch_began

    def run_step(self, step: int, batch: Batch) -> Measurement:
        """Run one train step, observed where that is due. Its dropout depends only on the step number."""
        self.seed_dropout(step)
        factor = self.schedule(step, self.plan.total)
        if step == 0:
            self.observe_probe()
        if self.observer.layers and (self.snapshot is None or step % SNAPSHOT_EVERY == 0):
            self.snapshot = Snapshot(self.train_state, step)
        if self.observer.due(step, self.plan.total - 1):
            measurement = self.hooked_step(step, batch, factor)
            self.record_moments()
        else:
            with self.moments.recording(step):
                measurement = train_step(self.train_state, batch, factor)
        self.record_observation(step)
        return measurement

    def hooked_step(self, step: int, batch: Batch, factor: float) -> Measurement:
        if self.train_state.forward is not self.train_state.model:
            # A compiled model calls no hooks: observe the same batch through the original model.
            self.observe_without_update(step, batch)
            with self.observer.observing_weights():
                return train_step(self.train_state, batch, factor)
        with self.observing_signals(step), self.observer.observing_weights():
            return train_step(self.train_state, batch, factor)

    def seed_dropout(self, step: int) -> None:
        rng.seed_device(self.train_state.placement.device, rng.derive(self.plan.dropout_seed, "dropout", step))

    def observe_only(self) -> None:
        """Observe the network at initialisation, for a run of no steps."""
        self.observe_probe()
        if self.observer.due(0, 0):
            self.train_state.model.train()
            self.seed_dropout(0)
            self.observe_without_update(0, next(iter(self.train.epoch(0))))
            self.observer.measure_weights()
        self.record_observation(0)

    def observe_without_update(self, step: int, batch: Batch) -> None:
        """Observe the forward and backward pass of a train step without updating the weights."""
        state = self.train_state
        with self.observing_signals(step):
            backward_isolated(state.model, lambda: state.scaler.scale(training_loss(state, state.model, batch)[0]))

    def observing_signals(self, step: int) -> AbstractContextManager[None]:
        # get_scale() would wait for the GPU.
        scale = self.train_state.scaler.scale(torch.ones((), device=self.train_state.placement.device))
        return self.observer.observing_signals(scale, self.observer.histograms_due(step, self.plan.total - 1))

    def observe_probe(self) -> None:
        started = time.perf_counter()
        self.observer.observe_probe(self.train_state.placement.autocast())
        self.result.train_s -= time.perf_counter() - started

    def record_observation(self, step: int) -> None:
        """Record the measurements of `step`, if there are any."""
        observation = self.observer.collect()
        if observation.values:
            self.record(step, dict(observation.values))
        for histogram in observation.histograms:
            self.sink.histogram(histogram.tag, step, histogram.edges, histogram.counts)

    def record_moments(self, before: int | None = None) -> None:
        """Record batch-norm moments before step `before` (None: all), once no replay needs them or a later step is recorded."""
        for step, values in self.moments.pop_rows(before):
            self.record(step, values)

    def check_divergence(self, wait: bool = False) -> bool:
        failed_step = self.nan_watch.first_nonfinite(wait)
        if failed_step is None:
            return False
        self.result.status = "diverged"
        self.result.reason = f"the training loss was not finite at step {failed_step}"
        if late := self.result.steps - (failed_step + 1):  # updates made before the loss reached the host
            del self.unrecorded[-late:]
        self.result.steps = failed_step + 1
        return True

    def replay(self) -> None:
        """Replay the steps since the snapshot with hooks on every one, then restore the train state. Randomness depends only on
        the step number. With trainer.deterministic=false the replay may diverge at another step."""
        if self.snapshot is None:
            return
        final, train_s = Snapshot(self.train_state, self.result.steps), self.result.train_s
        self.snapshot.restore()
        self.record_moments(before=self.snapshot.step)
        for step, batch in self.batches(self.snapshot.step):
            if step >= self.result.steps or self.stop:
                break
            self.seed_dropout(step)
            factor = self.schedule(step, self.plan.total)
            if step < self.moments.next_step or self.observer.due(step, self.plan.total - 1):
                train_step(self.train_state, batch, factor)  # this step, or a later one, is already recorded
            else:
                self.hooked_step(step, batch, factor)
                self.record_observation(step)
        final.restore()
        self.result.train_s = train_s

    def record_training(self, done: int) -> None:
        """Record mean loss and accuracy since the last record; the only copy of both from device to host."""
        if not self.unrecorded:
            return
        table = torch.stack([torch.stack((m.loss, m.correct.to(m.loss.dtype))) for m in self.unrecorded]).cpu()
        loss, correct = table.double().mean(dim=0).tolist()
        self.unrecorded.clear()
        self.result.train_loss = loss
        lr = self.train_state.optimizer.param_groups[0]["lr"]
        self.record(done, {"loss/train": loss, "accuracy/train": correct / self.plan.batch_size, "lr": lr})

    def evaluate_when_due(self, done: int) -> None:
        """Evaluate the validation split and the probe where due. A signal defers it until the run resumes."""
        self.evaluated = not self.evaluation_due(done) or self.record_validation(done)
        if self.evaluated and due(done, self.plan.steps_per_epoch, self.plan.total):
            self.observe_probe()
            self.record_observation(done)

    def evaluation_due(self, done: int) -> bool:
        return self.val is not None and due(done, self.plan.evaluate_every * self.plan.steps_per_epoch, self.plan.total)

    def record_validation(self, done: int) -> bool:
        """Evaluate and record the validation split. Return False, and record nothing, when a signal interrupts it."""
        assert self.val is not None
        started = time.perf_counter()
        score = evaluate(self.train_state, self.val, self.stop)
        self.train_state.model.train()
        self.result.train_s -= time.perf_counter() - started
        if score is not None:
            self.result.val = score
            self.record(done, score.values("val"))
            if self.best is None or (score.accuracy, -score.loss) > (self.best.score.accuracy, -self.best.score.loss):
                self.best = Best(done, score)
                self.saver.keep_best(done, self.train_state.model)
        return score is not None

    def record(self, step: int, values: dict[str, float]) -> None:
        self.sink.record(Record(step, self.epochs(step), time.perf_counter() - self.began, values))

    def epochs(self, steps: int) -> float:
        return steps / self.plan.steps_per_epoch if self.plan.steps_per_epoch else 0.0


def evaluate(train_state: TrainState, reader: Reader, stop: StopSignal) -> Score | None:
    """Return loss and accuracy over a whole split; None when a signal interrupts it."""
    train_state.model.eval()
    measurements: list[Measurement] = []
    examples = 0
    for batch in reader.eval_batches():
        measurements.append(eval_step(train_state.model, train_state.placement, batch))
        examples += len(batch.labels)
        if stop:
            return None
    table = torch.stack([torch.stack((m.loss, m.correct.to(m.loss.dtype))) for m in measurements]).cpu()
    loss, correct = (table.double().sum(dim=0) / examples).tolist()
    return Score(loss, correct, examples)
