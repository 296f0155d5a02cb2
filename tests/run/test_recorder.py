"""The recorder: a clock that pauses, measurements that no longer count, and the best score."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest
import torch

from train.observe.arrival import Arrival
from train.observe.batch_moments import BatchMoments
from train.observe.measurements import Histogram, Observation
from train.run.recorder import Recorder, Stopwatch, TrainPlan
from train.run.step import Measurement, Score
from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import Record, Sink


def test_stopwatch_counts_only_while_it_runs() -> None:
    clock = Stopwatch(3.0)
    with clock.paused():
        time.sleep(0.01)
    assert clock.seconds == 3.0, "a pause of a clock that does not run takes nothing from it"
    with clock.running():
        time.sleep(0.01)
        with clock.paused():
            before = clock.seconds
            time.sleep(0.01)
            assert clock.seconds == before
        time.sleep(0.01)
    counted = clock.seconds
    time.sleep(0.01)
    assert clock.seconds == counted >= 3.02


@pytest.fixture
def recorder() -> Recorder:
    plan = TrainPlan(total=8, steps_per_epoch=4, batch_size=2, record_every=1, evaluate_every=1, dropout_seed=0)
    return Recorder(BroadcastSink(), plan, BatchMoments((), 2, 8, capacity=4), began=0.0)


@pytest.mark.parametrize(("count", "kept"), [(0, [0.0, 1.0, 2.0]), (2, [0.0]), (3, []), (5, [])])
def test_drop_last_keeps_what_came_before(recorder: Recorder, count: int, kept: list[float]) -> None:
    """A loss that is not finite may reach the host after the record of later steps."""
    recorder.unrecorded = [Measurement(torch.tensor(float(i)), torch.tensor(1)) for i in range(3)]
    recorder.drop_last(count)
    assert [m.loss.item() for m in recorder.unrecorded] == kept


def test_best_score_is_the_first_with_highest_accuracy_and_lowest_loss(recorder: Recorder) -> None:
    scores = [(0.9, 0.5), (0.8, 0.5), (0.8, 0.5), (math.nan, 0.5), (0.1, 0.4), (2.0, 0.6)]
    assert [recorder.record_validation(i, Score(*score, 10), {}) for i, score in enumerate(scores)] == [1, 1, 0, 0, 0, 1]
    assert recorder.best is not None
    assert recorder.best.step == 5


class Kept(Sink):
    """Keeps step and tags of every record, and the tags of histograms."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[str]]] = []

    def record(self, record: Record) -> None:
        self.rows.append((record.step, list(record.values)))

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:  # noqa: ARG002
        self.rows.append((step, [tag]))


TRAINING = ["loss/train", "accuracy/train", "lr"]
VALIDATION = ["loss/val", "accuracy/val"]


@pytest.mark.parametrize("end", ["settled", "state", "validation"])
def test_numbers_on_their_way_are_recorded_in_their_order_before_anything_else(recorder: Recorder, end: str) -> None:
    sink = recorder.sink = Kept()
    recorder.waits = False
    observed = Observation({"activation_std/head": 1.0}, (Histogram("activation_histogram/head", [0, 1], [2]),))
    recorder.record_observation(3, lambda: observed)
    recorder.unrecorded = [Measurement(torch.tensor(2.0), torch.tensor(1)), Measurement(torch.tensor(4.0), torch.tensor(2))]
    recorder.record_training(4, lr=0.1)
    assert (sink.rows, recorder.train_loss, recorder.unrecorded) == ([], None, [])
    match end:
        case "settled":
            recorder.settle()
        case "state":
            assert recorder.state()["train_loss"] == 3.0
        case _:
            recorder.record_validation(4, Score(1.0, 0.5, 10), {})
    expected = [(3, ["activation_std/head"]), (3, ["activation_histogram/head"]), (4, TRAINING)]
    assert sink.rows == [*expected, *([(4, VALIDATION)] if end == "validation" else [])]
    assert recorder.train_loss == 3.0
    recorder.settle()
    assert len(sink.rows) == 3 + (end == "validation"), "each is recorded once"


def test_numbers_are_those_at_the_time_when_they_were_sent() -> None:
    numbers = torch.tensor([[1.0, 2.0], [3.0, math.nan]])
    arrival = Arrival(numbers[:, 0])
    numbers.zero_()
    assert arrival.is_there
    assert arrival.take().tolist() == [1.0, 3.0]


def test_numbers_are_recorded_at_once_where_nothing_runs_ahead(recorder: Recorder) -> None:
    sink = recorder.sink = Kept()
    recorder.record_observation(3, lambda: Observation({"activation_std/head": 1.0}))
    assert sink.rows == [(3, ["activation_std/head"])]
