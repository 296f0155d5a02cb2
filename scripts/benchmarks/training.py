"""Contestants that train: the loop of `train` as users have it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from train import cli
from train.config import parse
from train.data.readers import Readers
from train.errors import RunError
from train.run.device import configure_determinism
from train.run.graphs import WARM_STEPS, GraphedRunner
from train.run.loop import Loop
from train.run.run_sinks import delayed
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

from .host_time import HostClock, TimedReader, TimedRunner, TimedSink
from .windows import Seconds


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


def new_loop(setup: Setup, readers: Readers) -> tuple[Loop, GraphedRunner]:
    """Return a loop as a run makes it, but without a validation split and without sinks, and what runs its steps."""
    train_state = setup.train_state(readers)
    calls = setup.trace(train_state.model)
    observer = setup.observer(train_state.model, calls, readers)
    plan = setup.plan(readers)
    stop, runner = StopSignal(), setup.runner(train_state, observer, plan)
    loop = Loop(train_state, setup.parts.schedule, readers.train, None, plan, observer, BroadcastSink(), stop, runner=runner)
    return loop, runner


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
        self.setup = setup
        self.folder = folder
        self.readers = setup.open_readers()
        self.loop, self.runner = new_loop(setup, self.readers)
        self.null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115, closed in `close`
        self.folders = count()
        if setup.placement.device.type == "cuda":  # until every kind of step is a graph
            for _ in range(2):
                self.window(2 * WARM_STEPS)()

    @property
    def detail(self) -> str:
        facts = self.runner.facts()
        step = "the step a CUDA graph" if facts["cuda_graph"] else f"the step eager: {facts['cuda_graph_reason']}"
        on_gpu = f", {step}" if self.setup.placement.device.type == "cuda" else ""
        return f"{describe(self.setup)}, observe.every={self.setup.settings.observe.every}{on_gpu}"

    def window(self, steps: int) -> Callable[[], Seconds]:
        """Prepare a window; its call raises RunError when the loss is no longer finite."""
        configure_determinism(self.setup.settings.trainer.deterministic)
        stop, clock = StopSignal(), HostClock()
        sink = self.open_sinks(steps, stop)
        reader, runner = TimedReader(self.readers.train, clock), TimedRunner(self.runner, clock)
        sink = delayed([TimedSink(sink, clock)], self.setup.placement.device)
        loop = replace(self.loop, train=reader, sink=sink, stop=stop, runner=runner)
        return partial(self.run, loop, clock, steps)

    def run(self, loop: Loop, clock: HostClock, steps: int) -> Seconds:
        """Return the seconds that the host spends in each part."""
        began = time.perf_counter()
        try:
            ending = loop.run()
            loop.sink.flush()
        finally:
            loop.sink.close()
        parts = clock.parts(time.perf_counter() - began)
        if ending.steps != steps or ending.status == "diverged":
            reason = ending.reason or f"the configuration ends after {ending.steps} steps"
            raise RunError(f"{self.name}: {reason}, and a window has {steps}. Try fewer --steps, or another configuration.")
        return parts

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
