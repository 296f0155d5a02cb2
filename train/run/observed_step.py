"""Train steps of a plan, with the observer's hooks on those that are due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from train import rng
from train.data.contracts import Batch
from train.observe.observer import Observer
from train.parts.contracts import Schedule
from train.parts.isolation import backward_isolated
from train.run.recorder import Recorder, TrainPlan
from train.run.runner import StepRunner, observing_signals
from train.run.step import Measurement, TrainState, training_loss


@dataclass(frozen=True)
class Stepper:
    """Runs train steps and records what the observer measures in them. A step's dropout depends only on its number, and on
    the rank where there are several."""

    runner: StepRunner
    schedule: Schedule
    plan: TrainPlan
    recorder: Recorder

    @property
    def train_state(self) -> TrainState:
        return self.runner.train_state

    @property
    def observer(self) -> Observer:
        return self.runner.observer

    def run(self, step: int, batch: Batch) -> Measurement:
        """Run one train step, observed where that is due."""
        if step == 0:
            self.observe_probe()
        if is_observed := self.observer.due(step, self.plan.total - 1):
            measurement = self._hooked(step, batch, self.runner)
        else:
            with self.recorder.moments.recording(step):
                measurement = self._plain(step, batch, self.runner)
        self.recorder.settle()  # what the steps before have left, while the device computes this one
        if is_observed:
            self.recorder.record_moments()
        self.record_observation(step)
        return measurement

    def replay(self, step: int, batch: Batch) -> None:
        """Run a train step again, with hooks unless this step, or a later one, is already recorded.

        It is eager: going back to a snapshot put other tensors in the place of the optimizer's, which a CUDA graph would not see.
        """
        eager = StepRunner(self.train_state, self.observer)
        if step < self.recorder.moments.next_step or self.observer.due(step, self.plan.total - 1):
            self._plain(step, batch, eager)
        else:
            self._hooked(step, batch, eager)
            self.record_observation(step)

    def observe_initial(self, batches: Iterator[Batch]) -> None:
        """Observe the network at initialisation, for a run of no steps, on the first of `batches`."""
        self.observe_probe()
        if self.observer.due(0, 0):
            self.train_state.model.train()
            self._observe_without_update(0, next(batches))
            self.observer.measure_weights()
        self.record_observation(0)

    def observe_probe(self) -> None:
        with self.recorder.clock.paused():
            self.runner.observe_probe()

    def record_observation(self, step: int) -> None:
        self.recorder.record_observation(step, self.observer.send())

    def _plain(self, step: int, batch: Batch, runner: StepRunner) -> Measurement:
        self._seed_dropout(step)
        return runner.train(batch, self.schedule(step, self.plan.total))

    def _hooked(self, step: int, batch: Batch, runner: StepRunner) -> Measurement:
        if not self.train_state.calls_hooks:
            # A compiled model calls no hooks: observe the same batch through the original model.
            self._observe_without_update(step, batch)
            with self.observer.observing_weights():
                return self._plain(step, batch, runner)
        self._seed_dropout(step)
        return runner.observe(batch, self.schedule(step, self.plan.total), self._histograms_due(step))

    def _observe_without_update(self, step: int, batch: Batch) -> None:
        """Observe the forward and backward pass of a train step without updating the weights."""
        state = self.train_state
        self._seed_dropout(step)
        with observing_signals(state, self.observer, self._histograms_due(step)):
            backward_isolated(state.model, lambda: state.scaler.scale(training_loss(state, state.model, batch)[0]))

    def _histograms_due(self, step: int) -> bool:
        return self.observer.histograms_due(step, self.plan.total - 1)

    def _seed_dropout(self, step: int) -> None:
        world = self.train_state.world
        indices = (step,) if world.is_alone else (step, world.rank)
        rng.seed_device(self.train_state.placement.device, rng.derive(self.plan.dropout_seed, "dropout", *indices))
