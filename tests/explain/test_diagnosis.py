"""The diagnosis of runs that went wrong: on hand-made records with a known answer, and on real runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness import thresholds_for, train_in_process
from train.explain.anomalies import AnomalySearch
from train.explain.diagnosis import Diagnosis, Losses, Switches, diagnose, suggest
from train.sinks.contracts import Record
from train.store.metrics import read_records

THRESHOLDS = thresholds_for()
LAYERS = ["fc1", "act1", "fc2", "act2", "head"]
SWITCHES = Switches("kaiming", "none", "relu", lr=0.1, grad_clip=None, warmup=0.0)
STEADY = {"activation_std": 1.0, "gradient_std": 0.01, "activation_nonfinite": 0.0, "gradient_nonfinite": 0.0}
NAN = math.nan


def observation(step: int, **changes: float) -> Record:
    """Return a record of all layers. `changes`: statistic__layer -> value."""
    values = {f"{statistic}/{layer}": value for statistic, value in STEADY.items() for layer in LAYERS}
    return Record(step, 0.0, 0.0, values | {name.replace("__", "/"): value for name, value in changes.items()})


def loss(step: int, value: float) -> Record:
    return Record(step, 0.0, 0.0, {"loss/train": value})


def diagnose_records(records: Iterable[Record], switches: Switches = SWITCHES) -> Diagnosis | None:
    losses, anomalies = Losses(), AnomalySearch(THRESHOLDS)
    for record in records:
        losses.add(record)
        anomalies.add(record)
    return diagnose(losses, anomalies, 10, switches, THRESHOLDS)


def diagnosis_of(*records: Record, switches: Switches = SWITCHES) -> Diagnosis:
    diagnosis = diagnose_records(records, switches)
    assert diagnosis is not None
    json.dumps(diagnosis.as_json(), allow_nan=False)
    return diagnosis


def test_diagnose_returns_none_for_a_run_that_learned():
    assert diagnose_records([observation(0), loss(20, 2.3), observation(20), loss(100, 1.9)]) is None


def test_diagnose_returns_none_for_a_short_run():
    assert diagnose_records([observation(0), loss(10, 2.4), loss(20, 2.4)]) is None


@pytest.mark.parametrize(
    ("broken", "statistic", "layer"),
    [
        ({"activation_nonfinite__act1": 3.0, "gradient_nonfinite__fc1": 1.0}, "activation_nonfinite", "act1"),
        ({"activation_std__act2": NAN, "activation_std__head": NAN}, "activation_std", "act2"),
        ({"gradient_nonfinite__fc2": 3.0, "gradient_nonfinite__fc1": 9.0}, "gradient_nonfinite", "fc2"),
    ],
)
def test_diagnose_names_the_first_nonfinite_layer(broken, statistic, layer):
    diagnosis = diagnosis_of(
        observation(0),
        observation(5, activation_std__act1=3.0),
        observation(10, **broken),
        observation(15, activation_std__fc1=NAN),
        loss(20, NAN),
    )
    assert (diagnosis.finding, diagnosis.statistic, diagnosis.layer, diagnosis.step) == ("not_finite", statistic, layer, 10)
    if layer == "act1":
        assert diagnosis.before == ((0, 1.0), (5, 3.0))
        assert "before: 1 (step 0), 3 (step 5)" in diagnosis.text
    assert "optimizer.lr=0.01 (now 0.1)" in diagnosis.advice


def test_diagnose_names_earlier_growth_first():
    records = [
        observation(0),
        observation(5, activation_std__act2=40.0, activation_std__fc2=20.0),
        observation(10, activation_nonfinite__fc1=1.0),
    ]
    diagnosis = diagnosis_of(*records, loss(5, 9.0), loss(10, math.inf))
    assert (diagnosis.finding, diagnosis.statistic, diagnosis.layer, diagnosis.step) == ("growth", "activation_std", "act2", 5)
    assert "40, 40 times the largest" in diagnosis.text
    assert "then: activation_nonfinite of fc1 at step 10" in diagnosis.text
    assert diagnosis.text.startswith("the run diverged: the training loss recorded at step 10 is not finite; before: 9 (step 5)")


def test_diagnose_ignores_growth_of_a_faded_layer():
    start = observation(0, activation_std__act2=1e-6)
    assert diagnosis_of(start, observation(5, activation_std__act2=0.5), loss(10, NAN)).finding == "nothing"


def test_diagnose_reports_infinity_as_not_finite():
    diagnosis = diagnosis_of(observation(0), observation(5, activation_std__act1=math.inf), loss(10, NAN))
    assert diagnosis.finding == "not_finite"
    assert "then:" not in diagnosis.text


def test_diagnose_finds_large_updates_and_dying_layers():
    assert diagnosis_of(observation(0), observation(5, update_ratio__fc2=0.8), loss(10, NAN)).finding == "large_update"
    start = observation(0, activation_dead__act1=0.0)
    dying = diagnosis_of(start, observation(50, activation_dead__act1=0.9), loss(50, 2.31), loss(100, 2.3026))
    assert (dying.kind, dying.finding, dying.layer) == ("cannot_learn", "dying", "act1")
    assert "model.activation=leaky_relu" in dying.advice


def test_diagnose_blames_the_initial_signal_if_nothing_is_learned():
    start = observation(0, activation_std__act2=0.001, weight_std__fc1=1.0, weight_std__fc2=1.0, weight_std__head=1.0)
    diagnosis = diagnosis_of(
        start, observation(50), loss(50, 2.31), loss(100, 2.3026), switches=replace(SWITCHES, init="gaussian")
    )
    assert (diagnosis.finding, diagnosis.layer, diagnosis.step) == ("initial", "act2", 0)
    assert diagnosis.advice == ("init=kaiming", "norm=batch")
    assert "ln(10) = 2.303" in diagnosis.text


def test_diagnose_finds_small_updates():
    diagnosis = diagnosis_of(observation(0, update_ratio__fc1=1e-9), loss(50, 2.31), loss(100, 2.3026))
    assert diagnosis.finding == "small_update"
    assert diagnosis.advice == ("optimizer.lr=1 (now 0.1)",)


def test_diagnose_without_observations_names_the_option():
    assert "observe.every=1" in diagnosis_of(loss(10, NAN)).text


def test_suggest_omits_options_that_are_set_or_missing():
    careful = Switches("xavier", "batch", "tanh", lr=None, grad_clip=1.0, warmup=None)
    assert suggest("diverged", "growth", "activation_std", careful) == ()
    assert suggest("cannot_learn", "initial", "activation_std", careful) == ("model=resnet",)
    assert suggest("cannot_learn", "initial", "activation_std", replace(careful, init="gaussian")) == ("init=xavier",)


SMALL = [
    *("data=noise", "data.shape=[1,8,8]", "data.train_size=256", "data.test_size=16", "data.val_fraction=0", "augment=none"),
    *("norm=none", "model=mlp", "model.width=32", "schedule=constant", "trainer.batch_size=64", "trainer.record_every=10"),
    *("trainer.device=cpu", "trainer.precision=float32", "observe.every=1"),
]


@pytest.mark.slow
def test_diagnose_real_run_with_a_huge_learning_rate(tmp_path: Path):
    run = train_in_process(tmp_path / "run", [*SMALL, "optimizer.lr=1000", "trainer.epochs=10"])
    diagnosis = diagnosis_of(*read_records(run.metrics_file), switches=replace(SWITCHES, lr=1000.0))
    assert diagnosis.kind == "diverged"
    assert diagnosis.step is not None
    assert diagnosis.step <= 5
    assert diagnosis.layer
    assert "optimizer.lr=100 (now 1000)" in diagnosis.advice


@pytest.mark.slow
def test_diagnose_real_run_with_a_fading_signal(tmp_path: Path):
    init = ["init=gaussian", "init.std=0.01", "model.depth=8"]
    run = train_in_process(tmp_path / "run", [*SMALL, *init, "optimizer.lr=0.01", "trainer.epochs=20"])
    diagnosis = diagnosis_of(*read_records(run.metrics_file), switches=replace(SWITCHES, init="gaussian"))
    assert (diagnosis.kind, diagnosis.finding, diagnosis.statistic) == ("cannot_learn", "initial", "activation_std")
    assert "the signal fades" in diagnosis.text
    assert diagnosis.advice == ("init=kaiming", "norm=batch")
