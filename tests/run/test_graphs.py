"""The train step as a CUDA graph: on a CPU its static step without a graph; on a GPU the bits of graph and eager step."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.harness import resume_in_process, run_content, settings_for, train_in_process
from train.data.readers import Readers
from train.errors import UsageError
from train.rng import seed_device
from train.run.checkpoint import encode_checkpoint
from train.run.graphs import WARM_STEPS, GraphedStep, StaticStep, capturable, foreign_part, shortage_of
from train.run.loop import Loop
from train.run.setup import Setup, prepare
from train.run.signals import StopSignal
from train.run.step import Measurement, TrainState, rates_for, train_step
from train.sinks.contracts import Record, Sink
from train.store.run_folder import RunFolder

SMALL = [
    "data=noise",
    "data.shape=[1,16,16]",
    "data.classes=4",
    "data.train_size=80",
    "data.test_size=21",
    "data.val_fraction=0.2",
    "augment=flip_crop",
    "regularization=weight_decay_dropout",
    "model.width=8",
    "model.stages=2",
    "optimizer.lr=0.05",
    "trainer.batch_size=16",
    "trainer.record_every=3",
    "trainer.epochs=4",
    "trainer.max_steps=14",
]
"""Four steps an epoch; the run ends within its fourth epoch."""
ON_CPU = ["trainer.device=cpu", "trainer.precision=float32"]
VARIANTS = {
    "sgd": [],
    "plain sgd": ["optimizer.momentum=0", "optimizer.nesterov=false"],
    "adamw": ["optimizer=adamw", "optimizer.lr=0.003"],
    "clipped": ["trainer.grad_clip=0.1"],
    "smoothed": ["regularization.label_smoothing=0.1"],
    "float16": ["trainer.precision=float16"],
    "float16 clipped": ["trainer.precision=float16", "trainer.grad_clip=0.1"],
    "float16 adamw": ["trainer.precision=float16", "optimizer=adamw", "optimizer.lr=0.003"],
    "observed": ["observe=full", "observe.every=4", "observe.histogram_every=5"],
}

PARTS = {
    **VARIANTS,
    "group": ["norm=group"],
    "layer": ["norm=layer"],
    "instance": ["norm=instance"],
    "no norm": ["norm=none"],
    "no dropout": ["regularization.dropout=0"],
    "float32": ["trainer.precision=float32"],
    "not deterministic": ["trainer.deterministic=false", "trainer.precision=float32", "regularization.dropout=0"],
    "colors": ["data.shape=[3,16,16]", "augment=lecture"],
    "contiguous": ["data.shape=[3,16,16]", "trainer.memory_format=contiguous"],
}
MODELS = {
    "mlp": ["model=mlp"],
    "plain": ["model=plain", "model.depth=5", "model.width=8"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=8"],
    "resnet18": ["model=torchvision", "model.name=resnet18", "data.shape=[3,64,64]"],
    "efficientnet_b0": ["model=torchvision", "model.name=efficientnet_b0", "data.shape=[3,64,64]"],
    "mobilenet_v3_small": ["model=torchvision", "model.name=mobilenet_v3_small", "data.shape=[3,64,64]"],
}


class Rows(Sink):
    """The records of a run without their times; at step `end` it asks the run to stop."""

    essential = True

    def __init__(self, stop: StopSignal, end: int | None = None) -> None:
        self.rows: list[tuple[int, dict[str, str]]] = []
        self.stop, self.end = stop, end

    def record(self, record: Record) -> None:
        self.rows.append((record.step, {tag: repr(value) for tag, value in record.values.items()}))  # NaN equals NaN as text

    def progress(self, step: int, epoch: float, values: object) -> None:  # noqa: ARG002
        if step == self.end:
            self.stop.signal = 15


def begin(*overrides: str) -> tuple[Setup, Readers, TrainState]:
    """Return a run of SMALL with these overrides; those of another model are all of its settings."""
    other = any(word.startswith("model=") for word in overrides)
    small = [word for word in SMALL if not (other and word.startswith("model."))]
    setup = prepare(settings_for([*small, *overrides]))
    readers = setup.open_readers()
    train_state = setup.train_state(readers)
    train_state.model.train()
    return setup, readers, train_state


def new_loop(*overrides: str, static: bool, end: int | None = None) -> tuple[Loop, Rows]:
    """Return a loop whose steps without hooks run as `train_step` runs them, or static: on CUDA as a graph."""
    setup, readers, train_state = begin(*ON_CPU, *overrides)
    plan, stop = setup.plan(readers), StopSignal()
    observer, rows = setup.observer(train_state.model, setup.trace(train_state.model), readers), Rows(stop, end)
    on_cuda = setup.placement.device.type == "cuda"
    graphed = (
        setup.graphed_step(train_state, plan) if on_cuda else StaticStep(train_state, readers.first_batch, plan.record_every)
    )
    run = graphed.run if static else None
    loop = Loop(train_state, setup.parts.schedule, readers.train, readers.val, plan, observer, rows, stop, unobserved=run)
    return loop, rows


def copied(measured: Measurement) -> tuple[Tensor, Tensor]:
    return measured.loss.clone(), measured.correct.clone()


def tensors(state: Any) -> list[Tensor]:
    """Return the tensors of nested dicts and lists, in order; numbers as tensors."""
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in tensors(value)]
    if isinstance(state, list | tuple):
        return [tensor for value in state for tensor in tensors(value)]
    return [state] if isinstance(state, Tensor) else [torch.tensor(state)] if isinstance(state, int | float) else []


def bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor in the order of its values; NaN equals NaN, and 0 is not -0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(first: Any, second: Any) -> bool:
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(left.dtype == right.dtype and torch.equal(bits(left), bits(right)) for left, right in pairs)


def status_of(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.status_file.read_text())


# The static step, on a CPU


@pytest.mark.parametrize("name", VARIANTS)
def test_static_step_equals_train_step(name: str) -> None:
    _, readers, eager = begin(*ON_CPU, "regularization.dropout=0", *VARIANTS[name])
    _, _, twin = begin(*ON_CPU, "regularization.dropout=0", *VARIANTS[name])
    static = StaticStep(twin, readers.first_batch, capacity=3)
    expected, measured = [], []
    for i in range(8):
        batch = next(readers.train.epoch(i))
        expected.append(copied(train_step(eager, batch, 1 - i / 10)))
        measured.append(static.run(batch, 1 - i / 10))
        assert same([copied(m) for m in measured[-3:]], expected[-3:]), "the last results stay valid"
    assert same(twin.state(), eager.state())


@pytest.mark.parametrize("name", VARIANTS)
def test_loop_of_static_steps_makes_the_same_records(name: str) -> None:
    (eager, expected), (loop, rows) = (new_loop(*VARIANTS[name], static=static) for static in (False, True))
    ended = eager.run(), loop.run()
    assert rows.rows == expected.rows
    assert rows.rows[-1][0] == 14
    assert same(loop.train_state.state(), eager.train_state.state())
    assert dataclasses.replace(ended[0], train_s=0.0) == dataclasses.replace(ended[1], train_s=0.0)


def test_loop_of_static_steps_diverges_at_the_same_step() -> None:
    poison = ["data._target_=tests.run.test_loop.poisoned", "+data.bad=5", "data.val_fraction=0", "data.preprocess=none"]
    options = ["augment=none", "observe=basic", "trainer.epochs=9", "trainer.max_steps=null", "trainer.record_every=4"]
    (eager, expected), (loop, rows) = (new_loop(*poison, *options, static=static) for static in (False, True))
    ended = eager.run(), loop.run()
    assert ended[1].status == "diverged"
    assert (ended[0].reason, ended[0].steps) == (ended[1].reason, ended[1].steps)
    assert rows.rows == expected.rows
    assert same(loop.train_state.state(), eager.train_state.state())


@pytest.mark.parametrize("end", [4, 7])
@pytest.mark.parametrize("static", [False, True])
def test_checkpoint_between_static_steps_resumes_both_ways(end: int, static: bool) -> None:
    loop, whole = new_loop(static=False)
    loop.run()
    first, began = new_loop(static=True, end=end)
    assert first.run().status == "interrupted"
    second, ended = new_loop(static=static)
    content = io.BytesIO(encode_checkpoint({"loop": first.state()}))
    second.load_state(torch.load(content, weights_only=True)["loop"])
    second.run()
    assert [*began.rows, *ended.rows] == whole.rows
    assert same(second.train_state.state(), loop.train_state.state())


# The learning rate on the device


def test_rates_on_device_do_not_enter_a_checkpoint() -> None:
    _, readers, plain = begin(*ON_CPU, "regularization.dropout=0")
    assert plain.rates == {}, "a CPU takes the number, as ever"
    _, _, train_state = begin(*ON_CPU, "regularization.dropout=0")
    rates = {group["initial_lr"]: torch.zeros(()) for group in train_state.optimizer.param_groups}
    train_state = dataclasses.replace(train_state, rates=rates)
    for step, factor in enumerate((1.0, 0.5)):
        batch = next(readers.train.epoch(step))
        train_step(plain, batch, factor)
        train_step(train_state, batch, factor)
        assert all(type(group["lr"]) is float for group in train_state.state()["optimizer"]["param_groups"])
    assert [group["lr"] for group in train_state.optimizer.param_groups] == [0.025, 0.025]
    for left, right in zip(train_state.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(left, right)
    plain.load_state(train_state.state())
    assert same(plain.state(), train_state.state())


def test_rates_need_a_fused_optimizer_on_cuda() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    assert rates_for(optimizer, torch.device("cuda", 0)) == {}
    assert rates_for(optimizer, torch.device("cpu")) == {}


def test_capturable_is_set_only_inside() -> None:
    _, _, train_state = begin(*ON_CPU, *VARIANTS["adamw"])
    groups = train_state.optimizer.param_groups
    with capturable(train_state.optimizer):
        assert all(group["capturable"] is True for group in groups)
    assert all(group["capturable"] is False for group in groups)


# When a run is captured


@pytest.mark.parametrize(("choice", "reason"), [("auto", "the device is cpu"), ("false", "trainer.cuda_graph=false")])
def test_eager_run_says_why(tmp_path: Path, choice: str, reason: str) -> None:
    run = train_in_process(tmp_path / "run", [*SMALL, *ON_CPU, "trainer.max_steps=2", f"trainer.cuda_graph={choice}"])
    status = status_of(run)
    assert (status["status"], status["cuda_graph"], status["cuda_graph_reason"]) == ("done", False, reason)
    assert f"not a CUDA graph: {reason}" in (run.path / "train.log").read_text()


def test_demand_without_cuda_is_refused_before_any_data_is_loaded(tmp_path: Path) -> None:
    """The data set is not there: loading it would be another message."""
    wanted = ["data=cifar10", f"data.root={tmp_path}", "data.download=false", "trainer.device=cpu", "trainer.cuda_graph=true"]
    with pytest.raises(
        UsageError, match=r"trainer\.cuda_graph=true: .* this run is on cpu\. Use trainer\.cuda_graph=auto"
    ) as error:
        train_in_process(tmp_path / "run", wanted)
    assert error.value.exit_code == 2
    assert not (tmp_path / "run").exists()


class Hidden(nn.Sequential):
    """A module that is not of this program."""


@pytest.mark.parametrize("name", [*PARTS, *MODELS])
def test_choices_of_the_catalogue_have_no_foreign_part(name: str) -> None:
    _, _, train_state = begin("trainer.device=cpu", *(PARTS | MODELS)[name])
    assert foreign_part(train_state.model, train_state.optimizer) == ""


def test_foreign_part_names_the_first_one() -> None:
    class Slow(torch.optim.SGD):
        pass

    def optimizer_of(model: nn.Module, kind: type[torch.optim.SGD] = torch.optim.SGD) -> torch.optim.Optimizer:
        return kind(model.parameters())

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert foreign_part(model, optimizer_of(model)) == ""
    assert "the optimizer is a tests.run.test_graphs." in foreign_part(model, optimizer_of(model, Slow))
    hidden = nn.Sequential(nn.Linear(2, 2), Hidden(nn.ReLU()))
    assert "1 is a tests.run.test_graphs.Hidden" in foreign_part(hidden, optimizer_of(hidden))
    model[1].register_forward_hook(lambda *_: None)
    assert "1 has a hook" in foreign_part(model, optimizer_of(model))
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = lambda x: x
    assert "0 has a hook or a forward of its own" in foreign_part(model, optimizer_of(model))


@pytest.mark.parametrize(("step", "free", "enough"), [(0, 0, True), (2, 4, True), (2, 3.9, False), (30, 40, False)])
def test_graph_needs_room_for_two_steps(step: float, free: float, enough: bool) -> None:
    reason = shortage_of(int(step * 2**30), int(free * 2**30))
    assert reason == "" if enough else f"{2 * step:.1f} GiB" in reason and f"{free:.1f} GiB are free" in reason


def test_norm_of_the_users_own_is_foreign() -> None:
    _, _, train_state = begin(*ON_CPU, "norm._target_=tests.run.saboteur.norm", "norm=none")
    assert "is a tests.run.saboteur.Saboteur" in foreign_part(train_state.model, train_state.optimizer)
    step = GraphedStep(train_state, capacity=1)
    assert step.facts() == {"cuda_graph": False, "cuda_graph_reason": "the device is cpu"}


# On a GPU

ON_GPU = ["trainer.device=cuda"]
LONG = ["trainer.epochs=20", "trainer.max_steps=70"]


def assert_graph_equals_eager(*overrides: str) -> None:
    """Compare losses, weights, buffers, optimizer and loss scale after warm steps and replays."""
    _, readers, eager = begin(*ON_GPU, *overrides)
    _, _, twin = begin(*ON_GPU, *overrides)
    step = GraphedStep(twin, capacity=64)
    device = eager.placement.device
    for i in range(30):
        batch = next(readers.train.epoch(i))
        seed_device(device, i)
        expected = train_step(eager, batch, 1 - i / 40)
        seed_device(device, i)
        measured = step.run(batch, 1 - i / 40)
        assert same([copied(measured)], [copied(expected)]), f"step {i}"
    assert step.captured, step.reason
    assert same(twin.state(), eager.state())


@pytest.mark.cuda
@pytest.mark.parametrize("name", PARTS)
def test_graph_has_the_bits_of_the_eager_step(name: str) -> None:
    assert_graph_equals_eager(*PARTS[name])


@pytest.mark.cuda
@pytest.mark.parametrize("name", MODELS)
def test_graph_of_every_model_has_the_bits_of_the_eager_step(name: str) -> None:
    assert_graph_equals_eager(*MODELS[name])


@pytest.mark.cuda
@pytest.mark.parametrize(
    "overrides", [[], ["trainer.precision=float16", "trainer.grad_clip=1"], ["observe=full", "observe.every=7"]]
)
def test_captured_run_equals_eager_run(tmp_path: Path, overrides: list[str]) -> None:
    auto, off = (
        train_in_process(tmp_path / choice, [*SMALL, *ON_GPU, *LONG, *overrides, f"trainer.cuda_graph={choice}"])
        for choice in ("auto", "false")
    )
    assert status_of(auto)["cuda_graph"] is True
    assert status_of(auto)["cuda_graph_reason"] == ""
    assert status_of(off)["cuda_graph"] is False
    assert status_of(auto)["identity"] == status_of(off)["identity"]
    assert run_content(auto.path) == run_content(off.path)


@pytest.mark.cuda
@pytest.mark.parametrize("choices", [("auto", "false"), ("false", "auto"), ("auto", "auto")])
def test_resumed_run_equals_whole_run_whether_captured_or_not(tmp_path: Path, choices: tuple[str, str]) -> None:
    constant = ["schedule=constant", "trainer.epochs=20"]
    whole = train_in_process(tmp_path / "whole", [*SMALL, *ON_GPU, *constant, "trainer.max_steps=60"])
    parts = train_in_process(
        tmp_path / "parts", [*SMALL, *ON_GPU, *constant, "trainer.max_steps=31", f"trainer.cuda_graph={choices[0]}"]
    )
    parts, status = resume_in_process(parts.path, ["trainer.max_steps=60", f"trainer.cuda_graph={choices[1]}"])
    assert status == "done"
    assert (parts.path / "weights.pt").read_bytes() == (whole.path / "weights.pt").read_bytes()


@pytest.mark.cuda
@pytest.mark.parametrize("record_every", [1, 4, 50])
def test_captured_run_diverges_at_the_same_step(record_every: int) -> None:
    poison = ["data._target_=tests.run.test_loop.poisoned", "+data.bad=5", "data.val_fraction=0", "data.preprocess=none"]
    options = ["augment=none", "observe=basic", "trainer.epochs=9", "trainer.max_steps=null", "data.train_size=170"]
    (eager, expected), (loop, rows) = (
        new_loop(*poison, *options, *ON_GPU, f"trainer.record_every={record_every}", static=static) for static in (False, True)
    )
    ended = eager.run(), loop.run()
    assert ended[1].status == "diverged"
    assert (ended[0].reason, ended[0].steps) == (ended[1].reason, ended[1].steps)
    assert rows.rows == expected.rows
    assert all(step <= ended[1].steps for step, _ in rows.rows)


class Waiting(nn.BatchNorm2d):
    """A norm that waits for the device in every forward pass."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cuda":
            input.sum().item()
        return super().forward(input)


class Disguised(nn.BatchNorm2d):
    """A norm that passes for one of torch's, waits where torch's check does not see it, and draws random numbers before."""

    __module__ = "torch.nn"

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cuda":
            input = nn.functional.dropout(input, 0.5, self.training)
            torch.cuda.synchronize()
        return super().forward(input)


def waiting() -> type[nn.Module]:
    return Waiting


def disguised() -> type[nn.Module]:
    return Disguised


def harmless() -> type[nn.Module]:
    return Harmless


class Harmless(nn.BatchNorm2d):
    """A norm of the user's own that does the same at every step."""


@pytest.mark.cuda
def test_auto_is_eager_with_foreign_parts_and_true_captures_them(tmp_path: Path) -> None:
    own = [*SMALL, *ON_GPU, *LONG, "norm=none", f"norm._target_={__name__}.harmless"]
    auto, true = (train_in_process(tmp_path / choice, [*own, f"trainer.cuda_graph={choice}"]) for choice in ("auto", "true"))
    assert status_of(auto)["cuda_graph"] is False
    assert "Harmless" in status_of(auto)["cuda_graph_reason"]
    assert status_of(true)["cuda_graph"] is True
    assert run_content(auto.path) == run_content(true.path)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["waiting", "disguised"])
def test_demand_for_what_cannot_be_captured_is_one_message(tmp_path: Path, kind: str) -> None:
    own = [*SMALL, *ON_GPU, *LONG, "norm=none", f"norm._target_={__name__}.{kind}", "trainer.cuda_graph=true"]
    with pytest.raises(UsageError, match=r"trainer\.cuda_graph=true: .*cannot be a CUDA graph: .*trainer\.cuda_graph=auto"):
        train_in_process(tmp_path / "run", own)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 2)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_failed_capture_leaves_an_eager_run_with_the_same_bits(tmp_path: Path, precision: str) -> None:
    own = [
        *SMALL,
        *ON_GPU,
        *LONG,
        "norm=none",
        f"norm._target_={__name__}.disguised",
        f"trainer.precision={precision}",
        "trainer.grad_clip=1",
    ]
    auto, off = (train_in_process(tmp_path / choice, [*own, f"trainer.cuda_graph={choice}"]) for choice in ("auto", "false"))
    assert status_of(auto)["cuda_graph"] is False
    assert status_of(auto)["cuda_graph_reason"] not in ("", status_of(off)["cuda_graph_reason"])
    assert run_content(auto.path) == run_content(off.path)


@pytest.mark.cuda
@pytest.mark.parametrize("extra", [[], ["trainer.precision=float16"], ["optimizer=adamw", "optimizer.lr=0.003"]])
def test_replay_never_waits_for_the_device(extra: list[str]) -> None:
    _, readers, train_state = begin(*ON_GPU, *extra)
    step = GraphedStep(train_state, capacity=8)
    batches = [batch for epoch in range(4) for batch in readers.train.epoch(epoch)]
    for batch in batches[: WARM_STEPS + 1]:
        step.run(batch, 1.0)
    assert step.captured, step.reason
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[WARM_STEPS + 1 :]:
            step.run(batch, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.long
def test_compiled_step_is_captured_with_its_bits(tmp_path: Path) -> None:
    compiled = [*SMALL, *ON_GPU, *LONG, "trainer.compile=true"]
    auto, off = (train_in_process(tmp_path / choice, [*compiled, f"trainer.cuda_graph={choice}"]) for choice in ("auto", "false"))
    assert run_content(auto.path) == run_content(off.path)
