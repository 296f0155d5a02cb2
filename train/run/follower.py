"""What every rank of a run on several devices does in step with rank 0, and what the others do in the place of a folder."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from train.run.loop import Loop, NoSaver, Saver
from train.run.setup import Setup
from train.run.signals import StopSignal
from train.sinks.broadcast import BroadcastSink
from train.world import World


class AgreedStop(StopSignal):
    """The stop flag of rank 0, the same on all ranks: each question is one broadcast, until the answer is yes.

    A request to save comes with the answer.
    """

    def __init__(self, own: StopSignal, world: World) -> None:
        super().__init__()
        self._own, self._world = own, world

    def __bool__(self) -> bool:
        if self.signal is None:
            value = self._world.first_says(2 * (self._own.signal or 0) + self._own.pop_save_request())
            self.signal, self._save = value // 2 or None, self._save or bool(value % 2)
        return self.signal is not None


class AgreedSaver:
    """The saver of rank 0, of which all ranks know when it saves: they wait for the same losses then."""

    def __init__(self, own: Saver, world: World) -> None:
        self._own, self._world = own, world

    def due(self, done: int) -> bool:
        return bool(self._world.first_says(self._own.due(done)))

    def save(self, loop: Loop) -> None:
        self._own.save(loop)

    def keep_best(self, done: int, model: nn.Module) -> None:
        self._own.keep_best(done, model)


def agreed_stop(own: StopSignal, world: World) -> StopSignal:
    """Return the stop flag of a run on all its ranks."""
    return own if world.is_alone else AgreedStop(own, world)


def agreed_saver(own: Saver, world: World) -> Saver:
    """Return the saver of a run on all its ranks."""
    return own if world.is_alone else AgreedSaver(own, world)


def train_as_rank(setup: Setup, connect: Callable[[], None]) -> None:
    """Train as another rank than the first: the same as in `Session.train`, without a folder, records and checkpoints."""
    world, stop = setup.world, agreed_stop(StopSignal(), setup.world)
    readers = setup.open_readers()
    try:
        plan = setup.plan(readers)
        connect()
        train_state = setup.train_state(readers)
        calls = setup.trace(train_state.model)
        observer = setup.observer(train_state.model, calls, readers)
        del calls
        runner, saver = setup.runner(train_state, observer, plan), agreed_saver(NoSaver(), world)
        sink, schedule = BroadcastSink([]), setup.parts.schedule
        loop = Loop(train_state, schedule, readers.train, readers.val, plan, observer, sink, stop, saver=saver, runner=runner)
        if (state := world.from_first(None)) is not None:
            loop.load_state(state)
        if loop.run().status == "done" and setup.settings.trainer.score_test:
            loop.score_test(readers.test, len(setup.parts.dataset.class_names))
    finally:
        readers.close()
