"""Where the host's time of a training loop goes: a clock behind everything that the loop is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from train.data.contracts import Batch
from train.observe.batch_moments import BatchMoments
from train.run.loop import Reader
from train.run.runner import StepRunner
from train.run.step import Measurement
from train.sinks.contracts import Level, Record, Sink

from .windows import Seconds

HOST_PARTS = {
    "step": "train steps without hooks, or all that `bare` does",
    "reader": "the next batch",
    "observation": "what observed steps take beyond others",
    "records": "metrics.jsonl, TensorBoard, log and live view",
    "rest": "learning rates, moments of norms, the watch for NaN, waits for results",
    "device": "waiting for the device after the last step",
}


@dataclass
class HostClock:
    """The seconds that the host spent in the parts of a loop. `bodies`: in observed steps, without the records in them."""

    now: Callable[[], float] = time.perf_counter
    reader: float = 0.0
    plain: float = 0.0
    records: float = 0.0
    bodies: float = 0.0
    plain_steps: int = 0
    observed_steps: int = 0

    @contextmanager
    def body(self) -> Iterator[None]:
        """Time what the loop does with one batch: an observed step, unless the timed step has run."""
        began, plain_steps, records = self.now(), self.plain_steps, self.records
        try:
            yield
        finally:
            if self.plain_steps == plain_steps:
                self.bodies += self.now() - began - (self.records - records)
                self.observed_steps += 1

    def parts(self, total: float) -> Seconds:
        """Return the seconds of HOST_PARTS but the last; they add up to `total`. An observed step contains a plain one."""
        mean = self.plain / max(self.plain_steps, 1)
        step = self.plain + mean * self.observed_steps
        observation = self.bodies - mean * self.observed_steps
        known = {"step": step, "reader": self.reader, "observation": observation, "records": self.records}
        return known | {"rest": total - sum(known.values())}


class TimedRunner(StepRunner):
    """A runner whose train steps without hooks are timed."""

    def __init__(self, runner: StepRunner, clock: HostClock) -> None:
        super().__init__(runner.train_state, runner.observer)
        self.runner = runner
        self.clock = clock

    @property
    def runs_ahead(self) -> bool:
        return self.runner.runs_ahead

    def train(self, batch: Batch, lr_factor: float) -> Measurement:
        began = self.clock.now()
        measurement = self.runner.train(batch, lr_factor)
        self.clock.plain += self.clock.now() - began
        self.clock.plain_steps += 1
        return measurement

    def observe(self, batch: Batch, lr_factor: float, histograms: bool) -> Measurement:
        return self.runner.observe(batch, lr_factor, histograms)

    def evaluate(self, batch: Batch) -> Measurement:
        return self.runner.evaluate(batch)

    def observe_probe(self) -> None:
        self.runner.observe_probe()

    def moments_for(self, batch_size: int, total: int, capacity: int) -> BatchMoments:
        return self.runner.moments_for(batch_size, total, capacity)


@dataclass(frozen=True)
class TimedReader:
    """A reader whose training batches are timed, and what is done with each."""

    reader: Reader
    clock: HostClock

    @property
    def steps_per_epoch(self) -> int:
        return self.reader.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        batches = self.reader.epoch(epoch, start)
        while True:
            began = self.clock.now()
            batch = next(batches, None)
            self.clock.reader += self.clock.now() - began
            if batch is None:
                return
            with self.clock.body():
                yield batch

    def eval_batches(self) -> Iterator[Batch]:
        return self.reader.eval_batches()


class TimedSink(Sink):
    """A sink that times what another does during training."""

    essential = True

    def __init__(self, sink: Sink, clock: HostClock) -> None:
        self.sink = sink
        self.clock = clock

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        with self._timing():
            self.sink.progress(step, epoch, values)

    def record(self, record: Record) -> None:
        with self._timing():
            self.sink.record(record)

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        with self._timing():
            self.sink.histogram(tag, step, edges, counts)

    def message(self, text: str, level: Level = "info") -> None:
        self.sink.message(text, level)

    def close(self) -> None:
        self.sink.close()

    @contextmanager
    def _timing(self) -> Iterator[None]:
        began = self.clock.now()
        yield
        self.clock.records += self.clock.now() - began
