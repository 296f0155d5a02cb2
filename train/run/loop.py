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
from train.observe.apart import differentiate_apart
from train.observe.norm_moments import NormMoments
from train.observe.observer import Observer, due
from train.parts.contracts import Schedule
from train.run.bookmark import Bookmark
from train.run.losswatch import LossWatch
from train.run.step import Measurement, Trainee, look, training_loss, update
from train.run.stop import Stop
from train.sinks.contracts import Record, Sink

BOOKMARK_EVERY = 50
"""Steps between two copies of the trainee: as many are repeated at most when the loss breaks."""


class Reader(Protocol):
    """What the loop needs of a split's reader."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def sweep(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Plan:
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
class Ending:
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

    trainee: Trainee
    schedule: Schedule
    train: Reader
    val: Reader | None
    plan: Plan
    observer: Observer
    sink: Sink
    stop: Stop
    began: float = field(default_factory=time.perf_counter)
    saver: Saver = field(default_factory=NoSaver)
    ending: Ending = field(default_factory=Ending)
    recent: list[Measurement] = field(default_factory=list)
    best: Best | None = None
    looked: bool = True
    """Whether the looks that were due after the last step (validation split, probe) have been taken."""
    bookmark: Bookmark | None = None

    def run(self) -> Ending:
        """Train from the step it is at to the end of the plan, to the first loss that is not finite, or to a signal."""
        if self.plan.total == 0:
            self.observe_only()
        if not self.looked:
            self.look(self.ending.steps)
        for step, batch in () if self.stop else self.batches(self.ending.steps):
            measurement = self.observed_update(step, batch)
            self.recent.append(measurement)
            self.watch.add(step, measurement.loss)
            done = self.ending.steps = step + 1
            certain = due(done, BOOKMARK_EVERY, self.plan.total)
            if self.diverged(wait=certain or self.evaluation_due(done)):  # waiting also keeps training out of the look's time
                break
            if certain:
                self.record_moments()
            self.sink.progress(done, self.epochs(done), {})
            if due(done, self.plan.record_every, self.plan.total):
                self.record_training(done)
            self.look(done)
            if self.stop:
                break
            if done < self.plan.total and (self.stop.take_save() or self.saver.due(done)):
                self.save()
            if self.ending.status == "diverged":
                break
        if self.stop and self.ending.status != "diverged":
            self.ending.status = "interrupted"
        self.save()
        if self.ending.status == "diverged":
            self.look_back()
            self.record_training(self.ending.steps)
        return self.ending

    def __post_init__(self) -> None:
        self.watch = LossWatch(self.trainee.placement.device)
        self.epoch_began: float | None = None
        self.moments = NormMoments(self.observer.followed, self.plan.batch_size, self.plan.total, room=BOOKMARK_EVERY)

    def save(self) -> None:
        """Keep the state, unless the loss has turned out not to be finite: there is nothing to go on with then."""
        if self.ending.status != "diverged" and not self.diverged(wait=True) and self.plan.total:
            self.saver.save(self)

    def batches(self, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The training batches of the plan from step `start` on with the steps they belong to, timed."""
        step, length = start, max(self.plan.steps_per_epoch, 1)
        for epoch in range(start // length, -(-self.plan.total // length)):
            self.trainee.model.train()
            self.epoch_began = time.perf_counter()
            try:
                for batch in self.train.epoch(epoch, step % length):
                    if step == self.plan.total:
                        return
                    yield step, batch
                    step += 1
            finally:
                self.ending.train_s += self.epoch_s()
                self.epoch_began = None

    def epoch_s(self) -> float:
        """Seconds that the epoch has taken so far, with the looks in between."""
        return 0.0 if self.epoch_began is None else time.perf_counter() - self.epoch_began

    def observed_update(self, step: int, batch: Batch) -> Measurement:
        """One update, seen from inside where that is due. Its dropout depends on the step alone."""
        self.seed_dropout(step)
        factor = self.schedule(step, self.plan.total)
        if step == 0:
            self.look_at_probe()
        if self.observer.layers and (self.bookmark is None or step % BOOKMARK_EVERY == 0):
            self.bookmark = Bookmark(self.trainee, step)
        if self.observer.due(step, self.plan.total - 1):
            measurement = self.watched_update(step, batch, factor)
            self.record_moments()
        else:
            with self.moments.watching(step):
                measurement = update(self.trainee, batch, factor)
        self.record_observation(step)
        return measurement

    def watched_update(self, step: int, batch: Batch, factor: float) -> Measurement:
        if self.trainee.forward is not self.trainee.model:
            # A compiled model does not call hooks: look at the same batch through the model as it was written.
            self.look_apart(step, batch)
            with self.observer.watching_weights():
                return update(self.trainee, batch, factor)
        with self.watching_signals(step), self.observer.watching_weights():
            return update(self.trainee, batch, factor)

    def seed_dropout(self, step: int) -> None:
        rng.seed_device(self.trainee.placement.device, rng.derive(self.plan.dropout_seed, "dropout", step))

    def observe_only(self) -> None:
        """A run of no steps still shows the network at initialisation."""
        self.look_at_probe()
        if self.observer.due(0, 0):
            self.trainee.model.train()
            self.seed_dropout(0)
            self.look_apart(0, next(iter(self.train.epoch(0))))
            self.observer.measure_weights()
        self.record_observation(0)

    def look_apart(self, step: int, batch: Batch) -> None:
        """Forward and backward pass of a training step, without one."""
        trainee = self.trainee
        with self.watching_signals(step):
            differentiate_apart(trainee.model, lambda: trainee.scaler.scale(training_loss(trainee, trainee.model, batch)[0]))

    def watching_signals(self, step: int) -> AbstractContextManager[None]:
        scale = self.trainee.scaler.scale(torch.ones((), device=self.trainee.placement.device))  # get_scale() waits for the GPU
        return self.observer.watching_signals(scale, self.observer.histograms_due(step, self.plan.total - 1))

    def look_at_probe(self) -> None:
        started = time.perf_counter()
        self.observer.look_at_probe(self.trainee.placement.autocast())
        self.ending.train_s -= time.perf_counter() - started

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
        for step, values in self.moments.take(before):
            self.record(step, values)

    def diverged(self, wait: bool = False) -> bool:
        bad = self.watch.first_bad(wait)
        if bad is None:
            return False
        self.ending.status = "diverged"
        self.ending.reason = f"the training loss was not finite at step {bad}"
        if late := self.ending.steps - (bad + 1):  # updates made before a GPU had told
            del self.recent[-late:]
        self.ending.steps = bad + 1
        return True

    def look_back(self) -> None:
        """The steps before the loss broke once more, now seen from inside at each of them: all that is random in a step depends
        on its number alone. Afterwards the trainee is as it was. (With trainer.deterministic=false it may break elsewhere.)"""
        if self.bookmark is None:
            return
        ended, spent = Bookmark(self.trainee, self.ending.steps), self.ending.train_s
        self.bookmark.restore()
        self.record_moments(before=self.bookmark.step)
        for step, batch in self.batches(self.bookmark.step):
            if step >= self.ending.steps or self.stop:
                break
            self.seed_dropout(step)
            factor = self.schedule(step, self.plan.total)
            if step < self.moments.taken or self.observer.due(step, self.plan.total - 1):
                update(self.trainee, batch, factor)  # it, or a later one, is on record
            else:
                self.watched_update(step, batch, factor)
                self.record_observation(step)
        ended.restore()
        self.ending.train_s = spent

    def record_training(self, done: int) -> None:
        """Mean loss and accuracy since the last record; here they are copied from the device to the host."""
        if not self.recent:
            return
        table = torch.stack([torch.stack((m.loss, m.correct.to(m.loss.dtype))) for m in self.recent]).cpu()
        loss, correct = table.double().mean(dim=0).tolist()
        self.recent.clear()
        self.ending.train_loss = loss
        lr = self.trainee.optimizer.param_groups[0]["lr"]
        self.record(done, {"loss/train": loss, "accuracy/train": correct / self.plan.batch_size, "lr": lr})

    def look(self, done: int) -> None:
        """At the validation split and the probe, where that is due. A signal puts it off to when the run goes on."""
        self.looked = not self.evaluation_due(done) or self.record_validation(done)
        if self.looked and due(done, self.plan.steps_per_epoch, self.plan.total):
            self.look_at_probe()
            self.record_observation(done)

    def evaluation_due(self, done: int) -> bool:
        return self.val is not None and due(done, self.plan.evaluate_every * self.plan.steps_per_epoch, self.plan.total)

    def record_validation(self, done: int) -> bool:
        """False when a signal came in between: then nothing is recorded."""
        assert self.val is not None
        started = time.perf_counter()
        score = evaluate(self.trainee, self.val, self.stop)
        self.trainee.model.train()
        self.ending.train_s -= time.perf_counter() - started
        if score is not None:
            self.ending.val = score
            self.record(done, score.values("val"))
            if self.best is None or (score.accuracy, -score.loss) > (self.best.score.accuracy, -self.best.score.loss):
                self.best = Best(done, score)
                self.saver.keep_best(done, self.trainee.model)
        return score is not None

    def record(self, step: int, values: dict[str, float]) -> None:
        self.sink.record(Record(step, self.epochs(step), time.perf_counter() - self.began, values))

    def epochs(self, steps: int) -> float:
        return steps / self.plan.steps_per_epoch if self.plan.steps_per_epoch else 0.0


def evaluate(trainee: Trainee, reader: Reader, stop: Stop) -> Score | None:
    """Loss and accuracy over a whole split; None when a signal came in between."""
    trainee.model.eval()
    looks: list[Measurement] = []
    examples = 0
    for batch in reader.sweep():
        looks.append(look(trainee.model, trainee.placement, batch))
        examples += len(batch.labels)
        if stop:
            return None
    table = torch.stack([torch.stack((seen.loss, seen.correct.to(seen.loss.dtype))) for seen in looks]).cpu()
    loss, correct = (table.double().sum(dim=0) / examples).tolist()
    return Score(loss, correct, examples)
