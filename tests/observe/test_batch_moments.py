"""`BatchMoments` against a slow reference that stores every output, and the steps at which runs record them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.harness import train_in_process
from tests.observe.reference import BASE, SignalRecorder, observer_of, prepared
from tests.run import saboteur
from tests.steps import train_step
from train.observe.batch_moments import MOST_ROWS, BatchMoments
from train.sinks.contracts import Record
from train.store.metrics import read_records

MODELS = {
    "mlp": ["model.depth=2", "model.width=16", "model.activation=tanh"],
    "convnet": ["model.stages=2", "model.width=8"],
    "resnet": ["model.depth=8", "model.width=4"],
}
TOLERANCE = 1e-5
"""Maximum difference from the reference, in stds of the layer. Both measure the same outputs, in bfloat16 too."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_batch_moments_match_the_reference_at_every_step(model: str, precision: str) -> None:
    setup, readers = prepared([*BASE, f"model={model}", *MODELS[model], f"trainer.precision={precision}"])
    train_state = setup.train_state(readers)
    observer = observer_of(train_state.model, setup.parts.input_shape)
    moments = BatchMoments(observer.normalized_layers, batch_size=8, total=6, capacity=6)
    references: list[dict[str, float]] = []
    for step, batch in enumerate([*readers.train.epoch(0), *readers.train.epoch(1)]):
        recorder = SignalRecorder(train_state.model)
        with moments.recording(step), moments.storing(), recorder.recording():
            train_step(train_state, batch, 1.0)
        references.append(recorder.statistics_by_tag(1.0))
    rows = moments.send_rows()()
    assert [step for step, _ in rows] == list(range(6))
    weighted = {name for name, module in train_state.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for step, values in rows:
        assert {tag.partition("/")[2] for tag in values} == weighted - {"head"}
        for tag, value in values.items():
            std = references[step][tag.replace("_mean", "_std")]
            assert value == pytest.approx(references[step][tag], abs=TOLERANCE * std), f"{tag} at step {step}"
    assert moments.send_rows()() == [], "rows are popped once"


# Choice of layers


class Zoo(nn.Module):
    """One layer for every case that `find_normalized_layers` accepts or excludes."""

    def __init__(self) -> None:
        super().__init__()
        names = ("plain", "then_act", "inplace", "cumulative", "untracked", "shared_a", "shared_b", "group", "scaled")
        self.layers = nn.ModuleDict({name: nn.Conv2d(2, 2, 1) for name in names})
        self.twice, self.fc = nn.Conv2d(2, 2, 1), nn.Linear(2, 2)
        self.act = nn.Tanh()
        self.inplace_act = nn.ReLU(inplace=True)
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(2) for name in (*names, "twice1", "twice2")})
        self.norms["cumulative"] = nn.BatchNorm2d(2, momentum=None)
        self.norms["untracked"] = nn.BatchNorm2d(2, track_running_stats=False)
        self.norms["group"] = nn.GroupNorm(1, 2)
        self.norms["fc"] = nn.BatchNorm1d(2, momentum=1.0)

    def forward(self, x: Tensor) -> Tensor:
        layer, norm = self.layers, self.norms
        x = norm["plain"](layer["plain"](x))
        x = norm["then_act"](self.act(layer["then_act"](x)))
        x = norm["inplace"](self.inplace_act(layer["inplace"](x)))
        x = norm["cumulative"](layer["cumulative"](x))
        x = norm["untracked"](layer["untracked"](x))
        x = norm["shared_a"](layer["shared_a"](x))
        x = norm["shared_a"](layer["shared_b"](x))
        x = norm["group"](layer["group"](x))
        x = norm["scaled"](2 * layer["scaled"](x))
        x = norm["twice2"](self.twice(norm["twice1"](self.twice(x))))
        return norm["fc"](self.fc(x.mean((2, 3))))


def test_find_normalized_layers_selects_direct_norm_inputs() -> None:
    torch.manual_seed(0)  # with some weights, float32 averages cannot resolve a layer
    zoo = Zoo()
    before = {name: value.clone() for name, value in zoo.state_dict().items()}
    observer = observer_of(zoo, (2, 3, 3))
    assert [layer.layer for layer in observer.normalized_layers] == [
        "layers.plain",
        "act",
        "inplace_act",
        "twice",
        "twice#2",
        "fc",
    ]
    assert all(torch.equal(value, before[name]) for name, value in zoo.state_dict().items()), "the search leaves no trace"
    moments = BatchMoments(observer.normalized_layers, batch_size=5, total=1, capacity=1)
    recorder = SignalRecorder(zoo)
    with moments.recording(0), moments.storing(), recorder.recording():
        zoo(torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    ((_, values),) = moments.send_rows()()
    reference = recorder.statistics_by_tag(1.0)
    assert len(values) == 12
    assert values == pytest.approx({tag: reference[tag] for tag in values}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("changes", [{"every_step": False}, {"every": 0}])
def test_normalized_layers_are_empty_when_switched_off(changes: dict[str, Any]) -> None:
    assert observer_of(Zoo(), (2, 3, 3), **changes).normalized_layers == ()


def test_batch_moments_need_exactly_one_batch_per_step() -> None:
    """No values if the norm was in evaluation mode, not called, or called twice."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    moments = BatchMoments(observer_of(net, (3,)).normalized_layers, batch_size=8, total=3, capacity=3)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for step, (training, calls) in enumerate([(True, 1), (False, 1), (True, 0), (True, 2), (True, 1)][:3]):
        net.train(training)
        with moments.recording(step), moments.storing():
            for _ in range(calls):
                net(x)
    assert [step for step, _ in moments.send_rows()()] == [0]
    net.train()
    for step, calls in [(3, 2), (4, 1)]:
        with moments.recording(step), moments.storing():
            for _ in range(calls):
                net(x)
    assert [step for step, _ in moments.send_rows()()] == [4]


# Resolution of float32 averages


def recovered_stds(inputs: list[Tensor]) -> dict[int, float]:
    """Return step -> the recovered std of an identity layer that gets these inputs."""
    layer, norm = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    net = nn.Sequential(layer, norm)
    layers = observer_of(net, (3,)).normalized_layers
    moments = BatchMoments(layers, batch_size=len(inputs[0]), total=len(inputs), capacity=len(inputs))
    for step, x in enumerate(inputs):
        with moments.recording(step), moments.storing(), torch.no_grad():
            net(x)
    return {step: values["activation_std/0"] for step, values in moments.send_rows()()}


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e3, 0.0), (1e12, 0.0), (1.0, 300.0), (1.0, 1e5), (0.03, 0.0)])
def test_batch_moments_are_exact_to_1_percent_or_dropped(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [scale * torch.randn(64, 3, generator=generator) + offset for _ in range(250)]
    stds = recovered_stds(inputs)
    for step, std in stds.items():
        assert std == pytest.approx(inputs[step].double().std(correction=0).item(), rel=0.01)
    if scale == 1e-4:
        assert min(stds) > 50, "at first the initial variance of 1 dominates the averages"
        assert max(stds) == 249
    else:
        assert len(stds) == (0 if offset == 1e5 else 250)


def test_batch_moments_stop_after_the_first_nonfinite_step() -> None:
    inputs = [torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) for step in range(5)]
    inputs[2][0, 1] = math.nan
    stds = recovered_stds(inputs)
    assert list(stds) == [0, 1, 2], "from then on the averages are non-finite"
    assert math.isnan(stds[2])


# Recorded steps


@pytest.mark.parametrize("total", [1, 1999, 2000, 2001, 6500, 100_000])
def test_batch_moments_due_limits_the_number_of_rows(total: int) -> None:
    layers = observer_of(Zoo(), (2, 3, 3)).normalized_layers
    moments = BatchMoments(layers, batch_size=5, total=total, capacity=1)
    due = [step for step in range(total) if moments.due(step)]
    assert due[0] == 0
    assert len({after - before for before, after in pairwise(due)}) <= 1
    assert min(total, MOST_ROWS / 2) <= len(due) <= MOST_ROWS


RUN = [
    "data=noise",
    "data.shape=[1,8,8]",
    "data.train_size=32",
    "data.test_size=8",
    "data.val_fraction=0.25",
    "augment=none",
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
    "model.width=4",
    "model.stages=1",
    "trainer.batch_size=6",
    "trainer.epochs=30",
    "trainer.max_steps=58",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "trainer.record_every=7",
    "observe.probe_size=0",
]
"""58 steps of a network of two convolutions and a head; its norm can sabotage a step."""


@pytest.fixture(autouse=True)
def fresh_saboteur() -> Iterator[None]:
    saboteur.reset()
    yield
    saboteur.reset()


def run_records(folder: Path, *overrides: str) -> list[Record]:
    return list(read_records(train_in_process(folder, [*RUN, *overrides]).metrics_file))


def steps_by_tag(records: list[Record]) -> dict[str, list[int]]:
    steps: dict[str, list[int]] = defaultdict(list)
    for record in records:
        for tag in record.values:
            steps[tag].append(record.step)
    return steps


CADENCES = {
    "default": ([], [0, 50, 57]),
    "unaligned": (["observe.every=9"], [0, 9, 18, 27, 36, 45, 54, 57]),
    "chosen layers": (["observe.layers=*1"], [0, 50, 57]),
}


@pytest.mark.parametrize("cadence", CADENCES)
def test_run_records_batch_moments_of_every_step_once(tmp_path: Path, cadence: str) -> None:
    overrides, observed_steps = CADENCES[cadence]
    steps = steps_by_tag(run_records(tmp_path / "run", *overrides))
    convs = {"stage1.conv1", "stage1.conv2"} if cadence != "chosen layers" else {"stage1.conv1"}
    acts = {conv.replace("conv", "act") for conv in convs}
    assert {tag for tag in steps if steps[tag] == list(range(58))} == {
        f"activation_{what}/{conv}" for what in ("mean", "std") for conv in convs
    }
    assert {tag.partition("/")[2] for tag in steps if steps[tag] == observed_steps and tag.startswith("activation_std")} >= acts
    assert all(recorded == sorted(set(recorded)) for recorded in steps.values())


@pytest.mark.parametrize("overrides", [["norm=layer"], ["observe.every_step=false"], ["norm=none"]], ids=" ".join)
def test_run_without_batch_moments_records_observed_steps_only(tmp_path: Path, overrides: list[str]) -> None:
    run = [item for item in RUN if not (overrides[0].startswith("norm") and item.startswith("norm"))]
    records = list(read_records(train_in_process(tmp_path / "run", [*run, "trainer.max_steps=5", *overrides]).metrics_file))
    assert steps_by_tag(records)["activation_std/stage1.conv1"] == [0, 4]


def test_replayed_steps_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are replayed because the loss broke are complete as well."""
    monkeypatch.setenv("SABOTAGE", "train:55:nan")
    steps = steps_by_tag(run_records(tmp_path / "run"))
    assert steps["gradient_std/head"] == [0, 50, 51, 52, 53, 54]
    assert steps["activation_std/stage1.conv1"] == list(range(55))
    assert all(recorded == sorted(set(recorded)) for recorded in steps.values())
