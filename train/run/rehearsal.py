"""What a sweep wants to know of a configuration before it runs: whether it can, and how long a step takes. Needs torch: for a
process apart."""

from __future__ import annotations

import dataclasses
import json
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from train.config import Settings, parse
from train.data.batches import whole_batches
from train.data.contracts import Dataset
from train.data.readers import Readers, open_readers
from train.data.split import split_validation
from train.errors import UsageError
from train.run.folder import RunFolder
from train.run.loop import Loop, TrainPlan, evaluate
from train.run.session import Session, assemble, prepare
from train.run.signals import StopSignal
from train.run.step import TrainState
from train.sinks.contracts import Sink

WARM_STEPS = 5
MOST_STEPS = 60
MOST_S = 2.0
"""A timed training ends with the first of these two."""


Trust: TypeAlias = tuple[str, ...]
"""Packages whose functions a configuration may name, besides ours."""


def check_configs(question: tuple[Sequence[Mapping[str, Any]], Trust]) -> list[str | None]:
    """For each configuration the reason why no run can start with it, or None."""
    configs, trust = question
    sizes: dict[str, int] = {}
    return [check_config(config, trust, sizes) for config in configs]


def check_config(config: Mapping[str, Any], trust: Trust, sizes: dict[str, int]) -> str | None:
    """As a single run would refuse it. What else goes wrong here is left to the run, whose folder will tell it.

    `sizes`: of training splits that are known; most arms share their data, which is then loaded once for all of them.
    """
    try:
        settings = parse(config, trust)
        built = assemble(settings)
        key = json.dumps([config["data"], settings.seeds.split], sort_keys=True, default=str)
        if key not in sizes:
            sizes[key] = training_images(settings, built.parts.dataset)
        whole_batches(sizes[key], settings.trainer.batch_size)
    except UsageError as error:
        return str(error)
    except Exception:
        return None
    return None


def training_images(settings: Settings, dataset: Dataset) -> int:
    return len(split_validation(dataset.load(), settings.data.val_fraction, settings.seeds.split).train)


def time_run(question: tuple[Mapping[str, Any], Trust]) -> dict[str, float]:
    """A training that ends after some steps, with the real loop and observer, and leaves nothing behind.

    In seconds: `start_s` until the first step, `step_s` of a step, `evaluate_s` of all looks at the validation and test
    splits; and `steps` of the whole run.
    """
    began = time.perf_counter()
    session = prepare(parse(*question), RunFolder(Path(tempfile.gettempdir()) / "no-folder-is-made"))
    readers = open_readers(session.parts.dataset, session.splits, session.parts.pipeline, session.reader_settings())
    try:
        plan, train_state = session.plan(readers), session.train_state(readers)
        times = step_times(session, readers, plan, train_state)
        evaluate_s = evaluation_s(readers, plan, train_state)
    finally:
        readers.close()
    warm = min(WARM_STEPS, len(times) // 2)
    timed = len(times) - 1 - warm
    step_s = (times[-1] - times[warm]) / timed if timed > 0 else 0.0
    return {"start_s": times[warm] - began - warm * step_s, "step_s": step_s, "evaluate_s": evaluate_s, "steps": plan.total}


def step_times(session: Session, readers: Readers, plan: TrainPlan, train_state: TrainState) -> list[float]:
    """When the training began and when each of its steps ended."""
    stop = StopSignal()
    clock = StepClock(stop)
    short = dataclasses.replace(plan, total=min(plan.total, MOST_STEPS))
    observer = session.observer(train_state.model, readers)
    Loop(train_state, session.parts.schedule, readers.train, None, short, observer, clock, stop).run()
    return clock.times


def evaluation_s(readers: Readers, plan: TrainPlan, train_state: TrainState) -> float:
    """All of them in the whole run."""
    test_s = seconds(lambda: evaluate(train_state, readers.test, StopSignal()))
    val = readers.val
    if val is None:
        return test_s
    looks = -(-plan.total // (plan.evaluate_every * plan.steps_per_epoch))
    return test_s + looks * seconds(lambda: evaluate(train_state, val, StopSignal()))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class StepClock(Sink):
    """Notes when each step ended, and ends the training when that is enough."""

    def __init__(self, stop: StopSignal) -> None:
        self.stop, self.times = stop, [time.perf_counter()]

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())
        if step > WARM_STEPS and self.times[-1] - self.times[0] > MOST_S:
            self.stop.signal = signal.SIGTERM
