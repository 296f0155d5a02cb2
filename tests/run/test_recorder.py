"""The recorder: a clock that pauses, measurements that no longer count, and the best score."""

from __future__ import annotations

import math
import time

import pytest
import torch

from train.observe.batch_moments import BatchMoments
from train.run.recorder import Recorder, Stopwatch, TrainPlan
from train.run.step import Measurement, Score
from train.sinks.broadcast import BroadcastSink


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
