"""Runs and their twins, whose steps are static, and on a GPU graphs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.harness import settings_for
from train.data.contracts import Batch
from train.data.readers import Readers
from train.observe.observer import Observer
from train.run.capture import Capture
from train.run.graphs import GraphedRunner
from train.run.loop import Loop
from train.run.runner import Kind, StepRunner
from train.run.setup import Setup, prepare
from train.run.signals import StopSignal
from train.run.step import Measurement, TrainState
from train.sinks.contracts import Record, Sink
from train.store.run_folder import RunFolder

SMALL = [
    "data=noise",
    "data.shape=[1,16,16]",
    "data.classes=4",
    "data.train_size=80",
    "data.test_size=21",
    "data.val_fraction=0.2",
    "augment=flip_crop",
    "regularization=weight_decay_dropout",
    "model.width=8",
    "model.stages=2",
    "optimizer.lr=0.05",
    "trainer.batch_size=16",
    "trainer.record_every=3",
    "trainer.epochs=4",
    "trainer.max_steps=14",
]
"""Four steps an epoch; the run ends within its fourth epoch."""
ON_CPU = ["trainer.device=cpu", "trainer.precision=float32"]
VARIANTS = {
    "sgd": [],
    "plain sgd": ["optimizer.momentum=0", "optimizer.nesterov=false"],
    "adamw": ["optimizer=adamw", "optimizer.lr=0.003"],
    "clipped": ["trainer.grad_clip=0.1"],
    "smoothed": ["regularization.label_smoothing=0.1"],
    "float16": ["trainer.precision=float16"],
    "float16 clipped": ["trainer.precision=float16", "trainer.grad_clip=0.1"],
    "float16 adamw": ["trainer.precision=float16", "optimizer=adamw", "optimizer.lr=0.003"],
    "averaged": ["regularization=ema", "regularization.ema_decay=0.9"],
    "two passes": ["regularization=sam", "trainer.grad_clip=0.5", "observe=full", "observe.every=4"],
    "frozen in the second epoch": ["model=airbench", "model.width=4", "model.bias_epochs=1", "norm.scale=false"],
    "mixed": ["augment=mixup", "regularization.label_smoothing=0.1"],
    "observed": ["observe=full", "observe.every=4", "observe.histogram_every=5"],
}

PARTS = {
    **VARIANTS,
    "group": ["norm=group"],
    "layer": ["norm=layer"],
    "instance": ["norm=instance"],
    "ghost": ["norm=ghost", "norm.size=4"],
    "rms": ["norm=rms"],
    "standardised weights": ["norm=group_ws"],
    "no scale and shift": ["norm.scale=false", "norm.shift=false"],
    "no norm": ["norm=none"],
    "no dropout": ["regularization.dropout=0"],
    "float32": ["trainer.precision=float32"],
    "not deterministic": ["trainer.deterministic=false", "trainer.precision=float32", "regularization.dropout=0"],
    "drawn transformations": ["augment=trivial_augment"],
    "boxes": ["augment=cutmix"],
    "rates of kinds": ["optimizer.bias_factor=2", "optimizer.norm_factor=0.5", "optimizer.head_factor=3"],
    "colors": ["data.shape=[3,16,16]", "augment=lecture"],
    "contiguous": ["data.shape=[3,16,16]", "trainer.memory_format=contiguous"],
}
MODELS = {
    "mlp": ["model=mlp"],
    "plain": ["model=plain", "model.depth=5", "model.width=8"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=8"],
    "fixup": ["model=fixup", "model.depth=8", "model.width=8", "norm=none"],
    "stochastic depth": ["model=resnet", "model.depth=8", "model.width=8", "regularization=stochastic_depth"],
    "resnet9": ["model=resnet9", "model.width=4", "regularization=stochastic_depth"],
    "resnet18": ["model=torchvision", "model.name=resnet18", "data.shape=[3,64,64]"],
    "efficientnet_b0": ["model=torchvision", "model.name=efficientnet_b0", "data.shape=[3,64,64]"],
    "mobilenet_v3_small": ["model=torchvision", "model.name=mobilenet_v3_small", "data.shape=[3,64,64]"],
}


class Rows(Sink):
    """The records of a run without their times; at step `end` it asks the run to stop."""

    essential = True

    def __init__(self, stop: StopSignal, end: int | None = None) -> None:
        self.rows: list[tuple[int, dict[str, str]]] = []
        self.stop, self.end = stop, end

    def record(self, record: Record) -> None:
        self.rows.append((record.step, {tag: repr(value) for tag, value in record.values.items()}))  # NaN equals NaN as text

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        self.rows.append((step, {tag: repr((*edges, *counts))}))

    def progress(self, step: int, epoch: float, values: object) -> None:  # noqa: ARG002
        if step == self.end:
            self.stop.signal = 15


def begin(*overrides: str) -> tuple[Setup, Readers, TrainState]:
    """Return a run of SMALL with these overrides; those of another model are all of its settings."""
    other = any(word.startswith("model=") for word in overrides)
    return begin_with([word for word in SMALL if not (other and word.startswith("model."))], *overrides)


def begin_with(small: Sequence[str], *overrides: str) -> tuple[Setup, Readers, TrainState]:
    setup = prepare(settings_for([*small, *overrides]))
    readers = setup.open_readers()
    train_state = setup.train_state(readers)
    train_state.model.train()
    return setup, readers, train_state


def observer_of(setup: Setup, readers: Readers, train_state: TrainState) -> Observer:
    return setup.observer(train_state.model, setup.trace(train_state.model), readers)


def uncaptured(train_state: TrainState, observer: Observer, capacity: int, capture: Capture | None = None) -> GraphedRunner:
    """Return a runner whose steps are those of a graph, without one."""
    return GraphedRunner(train_state, observer, capacity, capture=capture or Capture())


def new_loop(*overrides: str, static: bool, end: int | None = None) -> tuple[Loop, Rows]:
    """Return a loop whose steps are eager, or static: on CUDA graphs."""
    return loop_of(begin(*ON_CPU, *overrides), static, end)


def loop_of(
    begun: tuple[Setup, Readers, TrainState], static: bool, end: int | None = None, capture: Capture | None = None
) -> tuple[Loop, Rows]:
    setup, readers, train_state = begun
    plan, stop = setup.plan(readers), StopSignal()
    observer, rows = observer_of(setup, readers, train_state), Rows(stop, end)
    loop = Loop(train_state, setup.parts.schedule, readers.train, readers.val, plan, observer, rows, stop)
    if static:
        graphs = setup.placement.device.type == "cuda"
        of_cpu = partial(uncaptured, train_state, observer, plan.record_every, capture)
        loop = dataclasses.replace(loop, runner=setup.runner(train_state, observer, plan) if graphs else of_cpu())
    return loop, rows


def copied(measured: Measurement) -> tuple[Tensor, Tensor]:
    return measured.loss.clone(), measured.correct.clone()


def tensors(state: Any) -> list[Tensor]:
    """Return the tensors of nested dicts and lists, in order; numbers as tensors."""
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in tensors(value)]
    if isinstance(state, list | tuple):
        return [tensor for value in state for tensor in tensors(value)]
    return [state] if isinstance(state, Tensor) else [torch.tensor(state)] if isinstance(state, int | float) else []


def bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor in the order of its values; NaN equals NaN, and 0 is not -0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(first: Any, second: Any) -> bool:
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(left.dtype == right.dtype and torch.equal(bits(left), bits(right)) for left, right in pairs)


def run_kind(runner: StepRunner, kind: Kind, batch: Batch, lr_factor: float) -> Measurement:
    if kind is Kind.EVALUATION:
        return runner.evaluate(batch)
    return runner.train(batch, lr_factor) if kind is Kind.TRAIN else runner.observe(batch, lr_factor, kind is Kind.HISTOGRAMS)


def status_of(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.status_file.read_text())
