"""Dry runs of configurations before a sweep: a check of each, and the time of a few steps. Imports torch: call it in a worker."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from train.config import Settings, parse
from train.data.batches import whole_batches
from train.data.contracts import Dataset, noted
from train.data.listing import listed_once
from train.data.readers import Readers
from train.errors import UsageError
from train.run import unused
from train.run.config_check import ConfigCheck
from train.run.fingerprint import first_batch
from train.run.inputs import load_data
from train.run.loop import Loop, Reader
from train.run.memory import data_bytes, needed_bytes
from train.run.own_code import own_code
from train.run.recorder import TrainPlan
from train.run.runner import StepRunner, evaluate, scores_beside
from train.run.setup import Setup, assemble, prepare
from train.run.signals import StopSignal
from train.run.trust import set_trusted
from train.sinks.contracts import Sink
from train.store.inputs import Inputs

WARM_STEPS = 5
MAX_STEPS = 60
MAX_S = 2.0
"""A timed training ends after MAX_STEPS steps or MAX_S seconds, whichever comes first."""


OF_BATCHES = ("seeds", "data", "augment", "trainer")
"""The keys of a configuration on which its batches can depend."""

Trust: TypeAlias = tuple[str, ...]
"""Packages, besides `train`, whose functions a configuration may name."""


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """`training_images`: the size of the training split; `bytes`: of all images that move to the device.

    `own_validation`: whether the data set brings a validation split; `content`: see `Inputs.data`.
    """

    training_images: int
    bytes: int
    own_validation: bool
    content: Mapping[str, Any]


def check_configs(request: tuple[Sequence[Mapping[str, Any]], Trust, bool, Sequence[str]]) -> list[ConfigCheck]:
    """Check each configuration. The third part of the request says whether to estimate the memory, the last what was typed."""
    configs, trust, with_memory, typed = request
    set_trusted(trust)
    known: dict[str, DataFacts] = {}
    with listed_once():
        return [check_config(config, known, with_memory, typed) for config in configs]


def check_config(config: Mapping[str, Any], known: dict[str, DataFacts], with_memory: bool, typed: Sequence[str]) -> ConfigCheck:
    """Return the usage error of a single run and its memory. Other errors are left to the run, which writes them to its folder.

    `known`: cache of the facts of the data: most arms share them, which are then loaded only once; `typed`: overrides on the
    command line.
    """
    try:
        settings = parse(config)
        parts = assemble(settings).parts
        key = json.dumps([config["data"], settings.seeds.split], sort_keys=True, default=str)
        if key not in known:
            known[key] = data_facts(settings, parts.dataset)
        data = known[key]
        steps_per_epoch = whole_batches(data.training_images, settings.trainer.batch_size)
        facts = unused.RunFacts(settings, parts, steps_per_epoch, data.own_validation)
        memory = needed_bytes(parts, settings.trainer.batch_size, data.bytes) if with_memory else None
        notes = {note: note for note in noted(parts.dataset)} | unused.notes(typed, facts)
        inputs = Inputs(data.content, own_code(settings.parts))
        return ConfigCheck(None, memory, unused.unread(typed, settings), notes, inputs)
    except UsageError as error:
        return ConfigCheck(str(error))
    except Exception:
        return ConfigCheck()


def data_facts(settings: Settings, dataset: Dataset) -> DataFacts:
    data = load_data(settings, dataset)
    return DataFacts(len(data.splits.train), data_bytes(data.splits), data.own_validation, data.inputs(settings).data)


def first_batches(request: tuple[Sequence[Mapping[str, Any]], Trust]) -> list[tuple[str, str]]:
    """Return for each configuration the hash of its first batch and the id of the data that it is from; empty if it fails."""
    configs, trust = request
    set_trusted(trust)
    found: dict[str, tuple[str, str]] = {}
    keys = [json.dumps({name: config.get(name) for name in OF_BATCHES}, sort_keys=True, default=str) for config in configs]
    for key, config in zip(keys, configs, strict=True):
        if key not in found:
            found[key] = first_batch_of(config)
    return [found[key] for key in keys]


def first_batch_of(config: Mapping[str, Any]) -> tuple[str, str]:
    try:
        setup = prepare(parse(config))
        readers = setup.open_readers()
        try:
            return str(first_batch(readers.first_batch)["sha256"]), setup.inputs.data_id
        finally:
            readers.close()
    except Exception:  # the run itself will report it
        return "", ""


def time_run(request: tuple[Mapping[str, Any], Trust]) -> dict[str, float]:
    """Time a short training with the real loop and observer. Leaves no files.

    Returns in seconds: `start_s` until the first step, `step_s` per step, `evaluate_s` for all evaluations of the validation and
    test splits; and `steps`, the number of steps of the full run.
    """
    started = time.perf_counter()
    config, trust = request
    set_trusted(trust)
    setup = prepare(parse(config))
    readers = setup.open_readers()
    try:
        plan, train_state = setup.plan(readers), setup.train_state(readers)
        observer = setup.observer(train_state.model, setup.trace(train_state.model), readers)
        runner = setup.runner(train_state, observer, plan)
        times = step_times(setup, readers, plan, runner)
        evaluate_s = total_evaluation_s(readers, plan, runner, score_test=setup.settings.trainer.score_test)
    finally:
        readers.close()
    warm = min(WARM_STEPS, len(times) // 2)
    timed = len(times) - 1 - warm
    step_s = (times[-1] - times[warm]) / timed if timed > 0 else 0.0
    return {"start_s": times[warm] - started - warm * step_s, "step_s": step_s, "evaluate_s": evaluate_s, "steps": plan.total}


def step_times(setup: Setup, readers: Readers, plan: TrainPlan, runner: StepRunner) -> list[float]:
    """Return the times at which a short training started and each of its steps ended."""
    stop = StopSignal()
    timer = StepTimer(stop)
    short = dataclasses.replace(plan, total=min(plan.total, MAX_STEPS))
    parts = (runner.train_state, setup.parts.schedule, readers.train, None, short, runner.observer)
    Loop(*parts, timer, stop, runner=runner).run()
    return timer.times


def total_evaluation_s(readers: Readers, plan: TrainPlan, runner: StepRunner, *, score_test: bool) -> float:
    """Return the total evaluation time of the full run in seconds, that of further models that are scored included."""
    test_s = evaluation_s(readers.test, runner) if score_test else 0.0
    if readers.val is None:
        return test_s
    return test_s + -(-plan.total // (plan.evaluate_every * plan.steps_per_epoch)) * evaluation_s(readers.val, runner)


def evaluation_s(split: Reader, runner: StepRunner) -> float:
    def score() -> None:
        evaluate(runner, split.eval_batches(), StopSignal())
        scores_beside(runner.train_state, split.eval_batches, "", StopSignal())

    return seconds(score)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class StepTimer(Sink):
    """A sink that records when each step ended, and stops the training after MAX_S seconds."""

    def __init__(self, stop: StopSignal) -> None:
        self.stop, self.times = stop, [time.perf_counter()]

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())
        if step > WARM_STEPS and self.times[-1] - self.times[0] > MAX_S:
            self.stop.signal = signal.SIGTERM
