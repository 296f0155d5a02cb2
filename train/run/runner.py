"""What runs the steps of a training: the train step, the same with hooks on the model, and the evaluation step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor, nn

from train.data.contracts import Batch
from train.observe.batch_moments import BatchMoments
from train.observe.observer import Observer
from train.parts.contracts import Staged
from train.run.device import Placement
from train.run.signals import StopSignal
from train.run.step import Measurement, Score, TrainState, eval_step, set_learning_rate, table_of, update
from train.world.norm import synchronizes


class Kind(StrEnum):
    """The kinds of steps; an observed step with histograms does more than one without."""

    TRAIN = "train step"
    OBSERVED = "observed step"
    HISTOGRAMS = "observed step with histograms"
    EVALUATION = "evaluation step"


class StepRunner:
    """Runs steps eagerly, kernel after kernel. None of them waits for the device.

    `observer`: keeps what an observed step measures until it is collected; `moments`: store what train steps do to batch norms.
    """

    def __init__(self, train_state: TrainState, observer: Observer) -> None:
        self.train_state = train_state
        self.observer = observer
        self.moments = BatchMoments((), 0, 0, 0)
        self._compute = {
            Kind.TRAIN: self._update,
            Kind.OBSERVED: partial(observed_update, train_state, observer, False),
            Kind.HISTOGRAMS: partial(observed_update, train_state, observer, True),
            Kind.EVALUATION: partial(eval_step, train_state.scored, train_state.placement),
        }

    @property
    def runs_ahead(self) -> bool:
        """Whether a step is launched while the device may still be at the one before."""
        return self.train_state.placement.device.type == "cuda"

    def begin_epoch(self, epoch: int) -> bool:
        """Prepare the model for an epoch. Return whether its train steps are others than before."""
        model = self.train_state.model
        model.train()
        return model.begin_epoch(epoch) if isinstance(model, Staged) else False

    def train(self, batch: Batch, lr_factor: float) -> Measurement:
        """Run a train step at `lr_factor` times the initial learning rate."""
        set_learning_rate(self.train_state, lr_factor)
        return self._run(Kind.TRAIN, batch)

    def observe(self, batch: Batch, lr_factor: float, histograms: bool) -> Measurement:
        """Run a train step with hooks on the model, which is not to be a compiled one: that calls no hooks."""
        set_learning_rate(self.train_state, lr_factor)
        return self._run(Kind.HISTOGRAMS if histograms else Kind.OBSERVED, batch)

    def evaluate(self, batch: Batch) -> Measurement:
        """Run an evaluation step. Expects evaluation mode."""
        return self._run(Kind.EVALUATION, batch)

    def observe_probe(self) -> None:
        """Observe the probe, where there is one."""
        self.observer.observe_probe(self.train_state.placement.autocast())

    def _run(self, kind: Kind, batch: Batch) -> Measurement:
        return self._compute[kind](batch)

    def moments_for(self, batch_size: int, total: int, capacity: int) -> BatchMoments:
        """Return what stores the averages around train steps, empty. It stays the same, since a CUDA graph writes into it."""
        if self.moments.layers:
            self.moments.clear()
        else:
            # Running averages of norms that look at their part alone are means over the parts.
            world, layers = self.train_state.world, self.observer.normalized_layers
            size = batch_size if world.is_alone or synchronizes(self.train_state.model) else batch_size // world.size
            self.moments = BatchMoments(layers, size, total, capacity)
        return self.moments

    def _update(self, batch: Batch) -> Measurement:
        with self.moments.storing():
            return update(self.train_state, batch)


def observed_update(train_state: TrainState, observer: Observer, histograms: bool, batch: Batch) -> Measurement:
    """Run `update` with hooks on the model."""
    with observing_signals(train_state, observer, histograms), observer.observing_weights():
        return update(train_state, batch, observer.note_gradients)


def observing_signals(train_state: TrainState, observer: Observer, histograms: bool) -> AbstractContextManager[None]:
    # get_scale() would wait for the GPU.
    scale = train_state.scaler.scale(torch.ones((), device=train_state.placement.device))
    return observer.observing_signals(scale, histograms)


class ClassCounter:
    """Evaluation steps, always eager, that also count the images of each class that are classified right.

    `counts`: int64 [classes] on the device, which no step waits for.
    """

    def __init__(self, model: nn.Module, placement: Placement, classes: int) -> None:
        self._model, self._placement = model, placement
        self._classes = torch.arange(classes, device=placement.device)
        self.counts = torch.zeros_like(self._classes)

    def evaluate(self, batch: Batch) -> Measurement:
        """Run an evaluation step. Expects evaluation mode."""
        return eval_step(self._model, self._placement, batch, self._count)

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        right = logits.argmax(dim=1) == labels
        self.counts += ((labels[:, None] == self._classes) & right[:, None]).sum(dim=0)


def evaluate(runner: StepRunner, batches: Iterable[Batch], stop: StopSignal) -> Score | None:
    """Return loss and accuracy over all batches of a split; None when a signal interrupts it. Leaves evaluation mode on."""
    return score_of(runner.train_state.scored, runner.evaluate, batches, stop)


def scores_beside(
    train_state: TrainState, batches: Callable[[], Iterable[Batch]], split: str, stop: StopSignal
) -> dict[str, float] | None:
    """Return the scores of what is scored besides, under their tags; None when a signal interrupts it."""
    values: dict[str, float] = {}
    for name, model in train_state.scored_beside.items():
        score = score_of(model, partial(eval_step, model, train_state.placement), batches(), stop)
        if score is None:
            return None
        values |= score.values(f"{split}_{name}")
    return values


def score_of(
    model: nn.Module, step: Callable[[Batch], Measurement], batches: Iterable[Batch], stop: StopSignal | None = None
) -> Score | None:
    """Return what `evaluate` does. `step`: runs an evaluation step of `model`."""
    model.eval()
    measurements: list[Measurement] = []
    examples = 0
    for batch in batches:
        measurements.append(step(batch))
        examples += len(batch.labels)
        if stop:
            return None
    loss, correct = (table_of(measurements).cpu().double().sum(dim=0) / examples).tolist()
    return Score(loss, correct, examples)
