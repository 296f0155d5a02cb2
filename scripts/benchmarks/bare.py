"""Contestants that are the bare train step, on one batch that stays on the device: eager, and as one CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from train.data.readers import Readers
from train.errors import RunError
from train.run.capture import capturable
from train.run.device import configure_determinism
from train.run.graphs import WARM_STEPS
from train.run.setup import Setup
from train.run.step import TrainState, set_learning_rate, update

from .training import describe
from .windows import Seconds


class BareStep:
    """The bare train step: forward, backward and update on one batch that stays on the device."""

    def __init__(self, name: str, setup: Setup, readers: Readers) -> None:
        self.name = name
        self.detail = describe(setup)
        self.setup = setup
        self.train_state = setup.train_state(readers)
        self.batch = next(readers.train.epoch(0))
        self.launch: Callable[[], object] = self.step

    def window(self, steps: int) -> Callable[[], Seconds]:
        self.prepare()
        return partial(self.run, steps)

    def prepare(self) -> None:
        configure_determinism(self.setup.settings.trainer.deterministic)
        self.train_state.model.train()

    def run(self, steps: int) -> Seconds:
        """Return the seconds that the host is busy with it."""
        began = time.perf_counter()
        for _ in range(steps):
            self.launch()
        return {"step": time.perf_counter() - began}

    def step(self) -> None:
        train_state = self.train_state
        with train_state.placement.autocast():
            logits = train_state.forward(self.batch.images)
        loss = functional.cross_entropy(logits.float(), self.batch.labels, label_smoothing=train_state.label_smoothing)
        train_state.scaler.scale(loss).backward()
        if train_state.grad_clip is not None:
            train_state.scaler.unscale_(train_state.optimizer)
            nn.utils.clip_grad_norm_(train_state.model.parameters(), train_state.grad_clip)
        train_state.scaler.step(train_state.optimizer)
        train_state.scaler.update()
        train_state.optimizer.zero_grad()

    def close(self) -> None: ...


class BareGraph(BareStep):
    """The whole step of `train`, its measurements included, as one CUDA graph: nothing but replays on one batch.

    RunError when the step cannot be captured.
    """

    def __init__(self, name: str, setup: Setup, readers: Readers) -> None:
        super().__init__(name, setup, readers)
        self.detail += ", one CUDA graph"
        self.prepare()
        set_learning_rate(self.train_state, 1.0)
        try:
            self.launch = captured(partial(update, self.train_state, self.batch), self.train_state)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunError(f"{name}: the train step cannot be captured ({reason}). Name the others with --only.") from error


def captured(step: Callable[[], object], train_state: TrainState) -> Callable[[], None]:
    """Return the replay of `step` as one CUDA graph, after some eager steps on a stream of their own, as torch demands."""
    device = train_state.placement.device
    stream, current, graph = torch.cuda.Stream(device), torch.cuda.current_stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_STEPS):
            step()
    current.wait_stream(stream)
    with capturable(train_state.optimizer), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay
