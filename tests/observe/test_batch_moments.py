"""What batch norms tell of the layers before them, against a slow twin that keeps every output; and when it is recorded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.harness import run_here
from tests.observe.reference import BASE, Kept, prepared, settings
from tests.run import saboteur
from train.observe.batch_moments import MOST_ROWS, BatchMoments
from train.observe.observer import Observer
from train.run.step import train_step
from train.sinks.contracts import Record
from train.sinks.jsonl import read_records

MODELS = {
    "mlp": ["model.depth=2", "model.width=16", "model.activation=tanh"],
    "convnet": ["model.stages=2", "model.width=8"],
    "resnet": ["model.depth=8", "model.width=4"],
}
TOLERANCE = 1e-5
"""How far a value may be from that of the twin, in stds of the layer. Both look at the same outputs, in bfloat16 too."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_norm_tells_what_the_twin_sees_at_every_step(model: str, precision: str, tmp_path: Path) -> None:
    session, readers = prepared(tmp_path / "run", [*BASE, f"model={model}", *MODELS[model], f"trainer.precision={precision}"])
    train_state = session.train_state(readers)
    observer = Observer(train_state.model, settings(), session.parts.input_shape)
    moments = BatchMoments(observer.normalized_layers, batch_size=8, total=6, room=6)
    seen: list[dict[str, float]] = []
    for step, batch in enumerate([*readers.train.epoch(0), *readers.train.epoch(1)]):
        kept = Kept(train_state.model)
        with moments.recording(step), kept.keeping():
            train_step(train_state, batch, 1.0)
        seen.append(kept.signals(1.0))
    told = moments.pop_rows()
    assert [step for step, _ in told] == list(range(6))
    weighted = {name for name, module in train_state.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for step, values in told:
        assert {tag.partition("/")[2] for tag in values} == weighted - {"head"}
        for tag, value in values.items():
            std = seen[step][tag.replace("_mean", "_std")]
            assert value == pytest.approx(seen[step][tag], abs=TOLERANCE * std), f"{tag} at step {step}"
    assert moments.pop_rows() == [], "once"


# Which layers


class Zoo(nn.Module):
    """One layer of every kind that a norm may follow or not."""

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


def test_only_layers_whose_own_output_is_what_a_norm_averages_once() -> None:
    zoo = Zoo()
    before = {name: value.clone() for name, value in zoo.state_dict().items()}
    observer = Observer(zoo, settings(), (2, 3, 3))
    assert [each.layer for each in observer.normalized_layers] == ["layers.plain", "act", "inplace_act", "twice", "twice#2", "fc"]
    assert all(torch.equal(value, before[name]) for name, value in zoo.state_dict().items()), "finding them leaves no trace"
    moments = BatchMoments(observer.normalized_layers, batch_size=5, total=1, room=1)
    kept = Kept(zoo)
    with moments.recording(0), kept.keeping():
        zoo(torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    ((_, values),) = moments.pop_rows()
    twin = kept.signals(1.0)
    assert len(values) == 12
    assert values == pytest.approx({tag: twin[tag] for tag in values}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("changes", [{"every_step": False}, {"every": 0}])
def test_none_where_nobody_asked(changes: dict[str, object]) -> None:
    assert Observer(Zoo(), settings(**changes), (2, 3, 3)).normalized_layers == ()


def test_a_norm_that_did_not_see_exactly_one_batch_says_nothing() -> None:
    """It was in evaluation mode, left out, or called again."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    moments = BatchMoments(Observer(net, settings(), (3,)).normalized_layers, batch_size=8, total=3, room=3)  # type: ignore[arg-type]
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for step, (training, calls) in enumerate([(True, 1), (False, 1), (True, 0), (True, 2), (True, 1)][:3]):
        net.train(training)
        with moments.recording(step):
            for _ in range(calls):
                net(x)
    assert [step for step, _ in moments.pop_rows()] == [0]
    net.train()
    for step, calls in [(3, 2), (4, 1)]:
        with moments.recording(step):
            for _ in range(calls):
                net(x)
    assert [step for step, _ in moments.pop_rows()] == [4]


# What float32 averages can hold


def told_of(inputs: list[Tensor]) -> dict[int, float]:
    """Step -> the std that the norm tells of a layer that passes on what it gets."""
    layer, norm = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    net = nn.Sequential(layer, norm)
    followed = Observer(net, settings(), (3,)).normalized_layers  # type: ignore[arg-type]
    moments = BatchMoments(followed, batch_size=len(inputs[0]), total=len(inputs), room=len(inputs))
    for step, x in enumerate(inputs):
        with moments.recording(step), torch.no_grad():
            net(x)
    return {step: values["activation_std/0"] for step, values in moments.pop_rows()}


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e3, 0.0), (1e12, 0.0), (1.0, 300.0), (1.0, 1e5), (0.03, 0.0)])
def test_what_is_told_is_right_to_a_hundredth_and_the_rest_is_left_out(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [scale * torch.randn(64, 3, generator=generator) + offset for _ in range(250)]
    told = told_of(inputs)
    for step, std in told.items():
        assert std == pytest.approx(inputs[step].double().std(correction=0).item(), rel=0.01)
    if scale == 1e-4:
        assert min(told) > 50, "at first the averages are still full of the 1 that they began with"
        assert max(told) == 249
    else:
        assert len(told) == (0 if offset == 1e5 else 250)


def test_a_signal_that_breaks_is_told_once_and_then_nothing() -> None:
    inputs = [torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) for step in range(5)]
    inputs[2][0, 1] = math.nan
    told = told_of(inputs)
    assert list(told) == [0, 1, 2], "from then on the averages have lost what came before"
    assert math.isnan(told[2])


# When it is recorded


@pytest.mark.parametrize("total", [1, 1999, 2000, 2001, 6500, 100_000])
def test_a_long_run_has_rows_at_every_so_many_steps(total: int) -> None:
    followed = Observer(Zoo(), settings(), (2, 3, 3)).normalized_layers
    moments = BatchMoments(followed, batch_size=5, total=total, room=1)
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
"""58 steps of a network of two convolutions and a head; its norm can be told to break a step."""


@pytest.fixture(autouse=True)
def fresh_saboteur() -> Iterator[None]:
    saboteur.reset()
    yield
    saboteur.reset()


def recorded(folder: Path, *overrides: str) -> list[Record]:
    return list(read_records(run_here(folder, [*RUN, *overrides]).metrics_file))


def steps_by_tag(records: list[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        for tag in record.values:
            found[tag].append(record.step)
    return found


CADENCES = {
    "default": ([], [0, 50, 57]),
    "not in step with anything": (["observe.every=9"], [0, 9, 18, 27, 36, 45, 54, 57]),
    "chosen layers": (["observe.layers=*1"], [0, 50, 57]),
}


@pytest.mark.parametrize("cadence", CADENCES)
def test_every_step_is_on_record_once_and_in_order(tmp_path: Path, cadence: str) -> None:
    how, looks = CADENCES[cadence]
    steps = steps_by_tag(recorded(tmp_path / "run", *how))
    convs = {"stage1.conv1", "stage1.conv2"} if cadence != "chosen layers" else {"stage1.conv1"}
    acts = {conv.replace("conv", "act") for conv in convs}
    assert {tag for tag in steps if steps[tag] == list(range(58))} == {
        f"activation_{what}/{conv}" for what in ("mean", "std") for conv in convs
    }
    assert {tag.partition("/")[2] for tag in steps if steps[tag] == looks and tag.startswith("activation_std")} >= acts
    assert all(found == sorted(set(found)) for found in steps.values())


@pytest.mark.parametrize("how", [["norm=layer"], ["observe.every_step=false"], ["norm=none"]], ids=" ".join)
def test_without_batch_norms_only_the_looks_are_on_record(tmp_path: Path, how: list[str]) -> None:
    run = [item for item in RUN if not (how[0].startswith("norm") and item.startswith("norm"))]
    records = list(read_records(run_here(tmp_path / "run", [*run, "trainer.max_steps=5", *how]).metrics_file))
    assert steps_by_tag(records)["activation_std/stage1.conv1"] == [0, 4]


def test_steps_that_are_repeated_because_the_loss_broke_are_on_record_once_and_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SABOTAGE", "train:55:nan")
    steps = steps_by_tag(recorded(tmp_path / "run"))
    assert steps["gradient_std/head"] == [0, 50, 51, 52, 53, 54]
    assert steps["activation_std/stage1.conv1"] == list(range(55))
    assert all(found == sorted(set(found)) for found in steps.values())
