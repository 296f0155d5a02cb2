"""The training loop. It knows steps, readers and sinks; not Hydra, not TensorBoard, not rich."""

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
from train.observe.isolation import backward_isolated
from train.observe.observer import Observer, due
from train.parts.contracts import Schedule
from train.run.nan_watch import NanWatch
from train.run.signals import StopSignal
from train.run.snapshot import Snapshot
from train.run.step import Measurement, TrainState, eval_step, train_step, training_loss
from train.sinks.contracts import Record, Sink

SNAPSHOT_EVERY = 50
"""Steps between two copies of the train_state: as many are repeated at most when the loss breaks."""


class Reader(Protocol):
    """What the loop needs of a split's reader."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def eval_batches(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainPlan:
    """Durations in steps; `total` is what will really run."""

    total: int
    steps_per_epoch: int
    batch_size: int
    record_every: int
    evaluate_every: int
    dropout_seed: int


@dataclass(frozen=True)
class Score:
    """Mean loss and share of correct answers over `examples` images."""

    loss: float
    accuracy: float
    examples: int

    def values(self, split: str) -> dict[str, float]:
        """As they are recorded."""
        return {f"loss/{split}": self.loss, f"accuracy/{split}": self.accuracy}


@dataclass(frozen=True)
class Best:
    """The best score on the validation split so far, and after how many updates it was."""

    step: int
    score: Score


class Saver(Protocol):
    """What the loop needs of whoever keeps its state."""

    def due(self, done: int) -> bool: ...
    def save(self, loop: Loop) -> None: ...
    def keep_best(self, done: int, model: nn.Module) -> None: ...


class NoSaver:
    """For a loop whose state nobody wants."""

    def due(self, done: int) -> bool:  # noqa: ARG002
        return False

    def save(self, loop: Loop) -> None:
        """Nothing."""

    def keep_best(self, done: int, model: nn.Module) -> None:
        """Nothing."""


@dataclass
class TrainResult:
    """How the loop ended: after `steps` updates, with the loss of the last record and the last score on the validation split."""

    status: Literal["done", "diverged", "interrupted"] = "done"
    reason: str = ""
    steps: int = 0
    train_loss: float | None = None
    val: Score | None = None
    train_s: float = 0.0


@dataclass
class Loop:
    """One training: what it works on, and what it has measured since the last record."""

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
    recent: list[Measurement] = field(default_factory=list)
    best: Best | None = None
    evaluated: bool = True
    """Whether the looks that were due after the last step (validation split, probe) have been taken."""
    snapshot: Snapshot | None = None

    def run(self) -> TrainResult:
        """Train from the step it is at to the end of the plan, to the first loss that is not finite, or to a signal."""
        if self.plan.total == 0:
            self.observe_only()
        if not self.evaluated:
            self.evaluate_when_due(self.result.steps)
        for step, batch in () if self.stop else self.batches(self.result.steps):
            measurement = self.observed_step(step, batch)
            self.recent.append(measurement)
            self.nan_watch.add(step, measurement.loss)
            done = self.result.steps = step + 1
            certain = due(done, SNAPSHOT_EVERY, self.plan.total)
            if self.diverged(wait=certain or self.evaluation_due(done)):  # waiting also keeps training out of the look's time
                break
            if certain:
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
        self.moments = BatchMoments(self.observer.normalized_layers, self.plan.batch_size, self.plan.total, room=SNAPSHOT_EVERY)

    def save(self) -> None:
        """Keep the state, unless the loss has turned out not to be finite: there is nothing to go on with then."""
        if self.result.status != "diverged" and not self.diverged(wait=True) and self.plan.total:
            self.saver.save(self)

    def batches(self, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The training batches of the plan from step `start` on with the steps they belong to, timed."""
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
        """Seconds that the epoch has taken so far, with the looks in between."""
        return 0.0 if self.epoch_began is None else time.perf_counter() - self.epoch_began

    def observed_step(self, step: int, batch: Batch) -> Measurement:
        """One update, seen from inside where that is due. Its dropout depends on the step alone."""
        self.seed_dropout(step)
        factor = self.schedule(step, self.plan.total)
        if step == 0:
            self.observe_probe()
        if self.observer.layers and (self.snapshot is None or step % SNAPSHOT_EVERY == 0):
            self.snapshot = Snapshot(self.train_state, step)
        if self.observer.due(step, self.plan.total - 1):
            measurement = self.watched_step(step, batch, factor)
            self.record_moments()
        else:
            with self.moments.recording(step):
                measurement = train_step(self.train_state, batch, factor)
        self.record_observation(step)
        return measurement

    def watched_step(self, step: int, batch: Batch, factor: float) -> Measurement:
        if self.train_state.forward is not self.train_state.model:
            # A compiled model does not call hooks: look at the same batch through the model as it was written.
            self.observe_without_update(step, batch)
            with self.observer.observing_weights():
                return train_step(self.train_state, batch, factor)
        with self.observing_signals(step), self.observer.observing_weights():
            return train_step(self.train_state, batch, factor)

    def seed_dropout(self, step: int) -> None:
        rng.seed_device(self.train_state.placement.device, rng.derive(self.plan.dropout_seed, "dropout", step))

    def observe_only(self) -> None:
        """A run of no steps still shows the network at initialisation."""
        self.observe_probe()
        if self.observer.due(0, 0):
            self.train_state.model.train()
            self.seed_dropout(0)
            self.observe_without_update(0, next(iter(self.train.epoch(0))))
            self.observer.measure_weights()
        self.record_observation(0)

    def observe_without_update(self, step: int, batch: Batch) -> None:
        """Forward and backward pass of a training step, without one."""
        train_state = self.train_state
        with self.observing_signals(step):
            backward_isolated(
                train_state.model, lambda: train_state.scaler.scale(training_loss(train_state, train_state.model, batch)[0])
            )

    def observing_signals(self, step: int) -> AbstractContextManager[None]:
        scale = self.train_state.scaler.scale(
            torch.ones((), device=self.train_state.placement.device)
        )  # get_scale() waits for the GPU
        return self.observer.observing_signals(scale, self.observer.histograms_due(step, self.plan.total - 1))

    def observe_probe(self) -> None:
        started = time.perf_counter()
        self.observer.observe_probe(self.train_state.placement.autocast())
        self.result.train_s -= time.perf_counter() - started

    def record_observation(self, step: int) -> None:
        """What was seen at `step`, if anything was."""
        seen = self.observer.collect()
        if seen.values:
            self.record(step, dict(seen.values))
        for found in seen.histograms:
            self.sink.histogram(found.tag, step, found.edges, found.counts)

    def record_moments(self, before: int | None = None) -> None:
        """What batch norms have told of the steps below `before` (None: of all). It waits until it is certain that these need not
        be looked at again, or until a later step is to be recorded."""
        for step, values in self.moments.pop_rows(before):
            self.record(step, values)

    def diverged(self, wait: bool = False) -> bool:
        bad = self.nan_watch.first_nonfinite(wait)
        if bad is None:
            return False
        self.result.status = "diverged"
        self.result.reason = f"the training loss was not finite at step {bad}"
        if late := self.result.steps - (bad + 1):  # updates made before a GPU had told
            del self.recent[-late:]
        self.result.steps = bad + 1
        return True

    def replay(self) -> None:
        """Replay the steps since the snapshot with hooks on every one, then restore the train state.

        All randomness of a step depends on its number alone. With trainer.deterministic=false the loss may break elsewhere."""
        if self.snapshot is None:
            return
        ended, spent = Snapshot(self.train_state, self.result.steps), self.result.train_s
        self.snapshot.restore()
        self.record_moments(before=self.snapshot.step)
        for step, batch in self.batches(self.snapshot.step):
            if step >= self.result.steps or self.stop:
                break
            self.seed_dropout(step)
            factor = self.schedule(step, self.plan.total)
            if step < self.moments.next_step or self.observer.due(step, self.plan.total - 1):
                train_step(self.train_state, batch, factor)  # it, or a later one, is on record
            else:
                self.watched_step(step, batch, factor)
                self.record_observation(step)
        ended.restore()
        self.result.train_s = spent

    def record_training(self, done: int) -> None:
        """Mean loss and accuracy since the last record; here they are copied from the device to the host."""
        if not self.recent:
            return
        table = torch.stack([torch.stack((m.loss, m.correct.to(m.loss.dtype))) for m in self.recent]).cpu()
        loss, correct = table.double().mean(dim=0).tolist()
        self.recent.clear()
        self.result.train_loss = loss
        lr = self.train_state.optimizer.param_groups[0]["lr"]
        self.record(done, {"loss/train": loss, "accuracy/train": correct / self.plan.batch_size, "lr": lr})

    def evaluate_when_due(self, done: int) -> None:
        """At the validation split and the probe, where that is due. A signal puts it off to when the run goes on."""
        self.evaluated = not self.evaluation_due(done) or self.record_validation(done)
        if self.evaluated and due(done, self.plan.steps_per_epoch, self.plan.total):
            self.observe_probe()
            self.record_observation(done)

    def evaluation_due(self, done: int) -> bool:
        return self.val is not None and due(done, self.plan.evaluate_every * self.plan.steps_per_epoch, self.plan.total)

    def record_validation(self, done: int) -> bool:
        """False when a signal came in between: then nothing is recorded."""
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
    """Loss and accuracy over a whole split; None when a signal came in between."""
    train_state.model.eval()
    looks: list[Measurement] = []
    examples = 0
    for batch in reader.eval_batches():
        looks.append(eval_step(train_state.model, train_state.placement, batch))
        examples += len(batch.labels)
        if stop:
            return None
    table = torch.stack([torch.stack((seen.loss, seen.correct.to(seen.loss.dtype))) for seen in looks]).cpu()
    loss, correct = (table.double().sum(dim=0) / examples).tolist()
    return Score(loss, correct, examples)
