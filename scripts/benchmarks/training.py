"""Contestants that train: the loop of `train` as users have it, and the bare train step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn
from torch.nn import functional

from train import cli
from train.config import parse
from train.data.readers import Readers
from train.errors import RunError
from train.run.device import configure_determinism
from train.run.loop import Loop
from train.run.setup import Setup, prepare
from train.run.signals import StopSignal
from train.sinks.broadcast import BroadcastSink
from train.sinks.console import ConsoleSink
from train.sinks.contracts import Sink
from train.sinks.heatmap import HeatMapSink
from train.sinks.jsonl import JsonlSink
from train.sinks.lines import LineSink, line_writer
from train.sinks.tensorboard import TensorBoardSink
from train.store.identity import experiment_of


def prepare_setup(overrides: Sequence[str]) -> Setup:
    """What `train OVERRIDES` would have at hand just before training. UsageError as there."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        content: Any = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    return prepare(parse(experiment_of(content)))


def describe(setup: Setup) -> str:
    placement = setup.placement
    kept = "deterministic" if setup.settings.trainer.deterministic else "not deterministic"
    return f"{placement.precision}, {placement.layout}, {kept}"


def new_loop(setup: Setup, readers: Readers) -> Loop:
    """Return a loop as a run makes it, but without a validation split and with sinks that write nowhere."""
    train_state = setup.train_state(readers)
    calls = setup.trace(train_state.model)
    observer = setup.observer(train_state.model, calls, readers)
    plan = setup.plan(readers)
    stop, graphed = StopSignal(), setup.graphed_step(train_state, plan)
    return Loop(
        train_state, setup.parts.schedule, readers.train, None, plan, observer, BroadcastSink(), stop, unobserved=graphed.run
    )


class EndAfter(Sink):
    """A sink that asks the run to stop after some steps, as a signal would."""

    essential = True

    def __init__(self, steps: int, stop: StopSignal) -> None:
        self.steps = steps
        self.stop = stop

    def progress(self, step: int, epoch: float, values: object) -> None:  # noqa: ARG002
        if step >= self.steps:
            self.stop.signal = 0


class TrainLoop:
    """The loop of `train` with its readers, observation and sinks, whose screen and log lead nowhere. Not in
    it: evaluation, and what is done once a run (the explanation of step 0, the figures).

    Each window begins at step 0, which is observed, and is stopped after its last step: of its steps, one in every
    `observe.every` is observed, as in a long run.
    """

    def __init__(self, name: str, setup: Setup, folder: Path) -> None:
        self.name = name
        self.detail = f"{describe(setup)}, observe.every={setup.settings.observe.every}"
        self.setup = setup
        self.folder = folder
        self.readers = setup.open_readers()
        self.loop = new_loop(setup, self.readers)
        self.null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115, closed in `close`
        self.folders = count()

    def window(self, steps: int) -> Callable[[], None]:
        """Prepare a window; its call raises RunError when the loss is no longer finite."""
        configure_determinism(self.setup.settings.trainer.deterministic)
        stop = StopSignal()
        sink = self.open_sinks(steps, stop)
        loop = replace(self.loop, sink=sink, stop=stop)
        return partial(self.run, loop, sink, steps)

    def run(self, loop: Loop, sink: Sink, steps: int) -> None:
        try:
            ending = loop.run()
        finally:
            sink.close()
        if ending.steps != steps or ending.status == "diverged":
            reason = ending.reason or f"the configuration ends after {ending.steps} steps"
            raise RunError(f"{self.name}: {reason}, and a window has {steps}. Try fewer --steps, or another configuration.")

    def open_sinks(self, steps: int, stop: StopSignal) -> BroadcastSink:
        folder = self.folder / str(next(self.folders))
        folder.mkdir(parents=True)
        screen = Console(file=self.null, force_terminal=True, width=100)
        log = LineSink(line_writer(self.null))
        shown = BroadcastSink([TensorBoardSink(), log, ConsoleSink(screen)])
        sink = BroadcastSink([JsonlSink(), shown, HeatMapSink(shown), EndAfter(steps, stop)])
        sink.start(self.setup.info(self.name, folder, self.readers, self.loop.plan))
        return sink

    def close(self) -> None:
        self.readers.close()
        self.null.close()


class BareStep:
    """The bare train step: forward, backward and update on one batch that stays on the device."""

    def __init__(self, name: str, setup: Setup, readers: Readers) -> None:
        self.name = name
        self.detail = describe(setup)
        self.setup = setup
        self.train_state = setup.train_state(readers)
        self.batch = next(readers.train.epoch(0))

    def window(self, steps: int) -> Callable[[], None]:
        configure_determinism(self.setup.settings.trainer.deterministic)
        self.train_state.model.train()
        return partial(self.run, steps)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

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
