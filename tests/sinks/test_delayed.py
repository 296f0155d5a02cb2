"""A sink that writes later: nothing is lost, doubled or out of order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from train.sinks.contracts import Record, Sink
from train.sinks.delayed import LEAST, DelayedSink


class Calls(Sink):
    """Notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def progress(self, step: int, epoch: float, values: object) -> None:  # noqa: ARG002
        self.calls.append(("progress", step))

    def record(self, record: Record) -> None:
        self.calls.append(("record", record.step))

    def histogram(self, tag: str, step: int, edges: object, counts: object) -> None:  # noqa: ARG002
        self.calls.append(("histogram", step))

    def message(self, text: str, level: str = "info") -> None:  # noqa: ARG002
        self.calls.append(("message", text))

    def sync(self) -> dict[str, int]:
        self.calls.append(("sync",))
        return {}

    def kept(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] != "progress"]


def test_steps_write_a_few_calls_each() -> None:
    calls = Calls()
    sink = DelayedSink(calls)
    for step in range(10):
        sink.record(Record(step, 0.0, 0.0, {}))
    assert calls.calls == [], "nothing is written while the GPU has nothing to do"
    sink.progress(1, 0.0, {})
    assert calls.calls == [*(("record", step) for step in range(LEAST)), ("progress", 1)]
    for step in range(2, 5):
        sink.progress(step, 0.0, {})
    assert calls.kept() == [("record", step) for step in range(10)]


@pytest.mark.parametrize("seed", range(5))
def test_calls_keep_their_order(seed: int) -> None:
    """Whatever comes in between, the other sink gets the same calls in the same order; only progress overtakes."""
    plain, late = Calls(), Calls()
    sinks: list[Sink] = [plain, DelayedSink(late)]
    choose = random.Random(seed)
    for step in range(300):
        name = choose.choice(["record", "record", "histogram", "progress", "message", "sync"])
        for sink in sinks:
            if name == "record":
                sink.record(Record(step, 0.0, 0.0, {}))
            elif name == "histogram":
                sink.histogram("tag", step, [0, 1], [2])
            elif name == "progress":
                sink.progress(step, 0.0, {})
            elif name == "message":
                sink.message(str(step))
            else:
                sink.sync()
    sinks[1].close()
    assert late.kept() == plain.kept()
