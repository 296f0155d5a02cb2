"""What was measured since the last record, and its records; the best score; and the training time.

On a GPU the host would wait for each number that it records, and the GPU then for the next step. So numbers are recorded after
the next step was launched, and before anything else is recorded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from train.observe.arrival import Arrival
from train.observe.batch_moments import BatchMoments, Row
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

    `moments`: of the batch norms; `began`: the value of `time.perf_counter` when the run started; `waits`: False where numbers
    are recorded when `settle` is called; `train_loss`: of the last record.
    """

    sink: Sink
    plan: TrainPlan
    moments: BatchMoments
    began: float
    waits: bool = True
    clock: Stopwatch = field(default_factory=Stopwatch)
    unrecorded: list[Measurement] = field(default_factory=list)
    train_loss: float | None = None
    val: Score | None = None
    best: Best | None = None
    _expected: deque[Callable[[], None]] = field(default_factory=deque)
    """Records of numbers that are on their way."""

    def settle(self) -> None:
        """Wait for all numbers that are on their way, and record them in the order in which they were sent."""
        while self._expected:
            self._expected.popleft()()

    def _expect(self, record: Callable[[], None]) -> None:
        self._expected.append(record)
        if self.waits:
            self.settle()

    def record_training(self, done: int, lr: float) -> None:
        """Record mean loss and accuracy since the last record; the only copy of both from device to host."""
        if self.unrecorded:
            table = Arrival(table_of(self.unrecorded))
            self.unrecorded.clear()
            self._expect(partial(self._record_training, done, lr, table))

    def _record_training(self, done: int, lr: float, table: Arrival) -> None:
        loss, correct = table.take().double().mean(dim=0).tolist()
        self.train_loss = loss
        self._record(done, {"loss/train": loss, "accuracy/train": correct / self.plan.batch_size, "lr": lr})

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

    def record_observation(self, step: int, observation: Callable[[], Observation]) -> None:
        """Record what was observed at `step`, if anything was. `observation`: what `Observer.send` returned."""
        self._expect(partial(self._record_observation, step, observation))

    def _record_observation(self, step: int, observation: Callable[[], Observation]) -> None:
        observed = observation()
        if observed.values:
            self._record(step, dict(observed.values))
        for histogram in observed.histograms:
            self.sink.histogram(histogram.tag, step, histogram.edges, histogram.counts)

    def record_moments(self, before: int | None = None) -> None:
        """Record batch-norm moments before step `before` (None: all), once no replay needs them or a later step is recorded."""
        self._expect(partial(self._record_moments, self.moments.send_rows(before)))

    def _record_moments(self, rows: Callable[[], list[Row]]) -> None:
        for step, values in rows():
            self._record(step, values)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Record values that are on the host, after those that are on their way."""
        self.settle()
        self._record(step, values)

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        self.sink.record(Record(step, self.plan.epochs(step), time.perf_counter() - self.began, values))

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        self.settle()
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
