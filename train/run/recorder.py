"""What was measured since the last record, and its records; the best score; and the training time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from train.observe.batch_moments import BatchMoments
from train.observe.measurements import Observation
from train.run.step import Measurement, Score, table_of
from train.sinks.contracts import Sink
from train.store.metrics import Record


@dataclass(frozen=True)
class TrainPlan:
    """Durations in steps; `total` is the number of steps that will run."""

    total: int
    steps_per_epoch: int
    batch_size: int
    record_every: int
    evaluate_every: int
    dropout_seed: int

    def epochs(self, steps: int) -> float:
        return steps / self.steps_per_epoch if self.steps_per_epoch else 0.0


@dataclass(frozen=True)
class Best:
    """The best score on the validation split so far, and the number of updates before it."""

    step: int
    score: Score


class Stopwatch:
    """A clock that counts the seconds inside `running`, except those inside `paused`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._counted = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return self._counted + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._counted, self._since = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        was_running = self._since is not None
        self._counted, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter() if was_running else None


@dataclass
class Recorder:
    """The measurements of a training that are not recorded yet, and the scores so far.

    `moments`: of the batch norms; `began`: the value of `time.perf_counter` when the run started; `train_loss`: of the last
    record.
    """

    sink: Sink
    plan: TrainPlan
    moments: BatchMoments
    began: float
    clock: Stopwatch = field(default_factory=Stopwatch)
    unrecorded: list[Measurement] = field(default_factory=list)
    train_loss: float | None = None
    val: Score | None = None
    best: Best | None = None

    def record_training(self, done: int, lr: float) -> None:
        """Record mean loss and accuracy since the last record; the only copy of both from device to host."""
        if not self.unrecorded:
            return
        loss, correct = table_of(self.unrecorded).mean(dim=0).tolist()
        self.unrecorded.clear()
        self.train_loss = loss
        self.record(done, {"loss/train": loss, "accuracy/train": correct / self.plan.batch_size, "lr": lr})

    def drop_last(self, count: int) -> None:
        """Drop the measurements of the last `count` steps, as far as they are not recorded yet."""
        if count:
            del self.unrecorded[-count:]

    def record_validation(self, done: int, score: Score, beside: Mapping[str, float]) -> bool:
        """Record a score on the validation split, and those of further models. Return whether it is the best so far."""
        self.val = score
        self.record(done, score.values("val") | dict(beside))
        if self.best is None or (score.accuracy, -score.loss) > (self.best.score.accuracy, -self.best.score.loss):
            self.best = Best(done, score)
            return True
        return False

    def record_observation(self, step: int, observation: Observation) -> None:
        """Record what was observed at `step`, if anything was."""
        if observation.values:
            self.record(step, dict(observation.values))
        for histogram in observation.histograms:
            self.sink.histogram(histogram.tag, step, histogram.edges, histogram.counts)

    def record_moments(self, before: int | None = None) -> None:
        """Record batch-norm moments before step `before` (None: all), once no replay needs them or a later step is recorded."""
        for step, values in self.moments.pop_rows(before):
            self.record(step, values)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self.sink.record(Record(step, self.plan.epochs(step), time.perf_counter() - self.began, values))

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            "losses": [m.loss.clone() for m in self.unrecorded],  # a view would bring along everything beside it
            "correct": [m.correct.clone() for m in self.unrecorded],
            "moments": self.moments.state(),
            "train_loss": self.train_loss,
            "val": asdict(self.val) if self.val else None,
            "best": asdict(self.best) if self.best else None,
            "train_s": self.clock.seconds,
        }

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Load the content of a checkpoint."""
        pairs = zip(state["losses"], state["correct"], strict=True)
        self.unrecorded = [Measurement(loss.to(device), correct.to(device)) for loss, correct in pairs]
        self.moments.load_state(state["moments"])
        self.train_loss = state["train_loss"]
        self.val = Score(**state["val"]) if state["val"] else None
        self.best = Best(state["best"]["step"], Score(**state["best"]["score"])) if state["best"] else None
        self.clock = Stopwatch(state["train_s"])
