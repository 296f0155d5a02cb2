"""On a GPU: steps that are CUDA graphs have the bits of eager ones. Nothing here runs without one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.harness import resume_in_process, run_content, train_in_process
from tests.run.twins import MODELS, PARTS, SMALL, begin, copied, new_loop, observer_of, run_kind, same, status_of
from train.errors import UsageError
from train.rng import seed_device
from train.run.graphs import WARM_STEPS, GraphedRunner
from train.run.runner import Kind, StepRunner

ON_GPU = ["trainer.device=cuda"]
LONG = ["trainer.epochs=20", "trainer.max_steps=70"]


def assert_graphs_equal_eager(*overrides: str) -> None:
    """Compare results, statistics and train state of every kind of step, in warm steps and in replays."""
    runs = [begin(*ON_GPU, "observe=full", *overrides) for _ in range(2)]
    (_, readers, eager), (_, _, twin) = runs
    runner, graphed = StepRunner(eager, observer_of(*runs[0])), GraphedRunner(twin, observer_of(*runs[1]), capacity=64)
    device = eager.placement.device
    held_out = next(readers.test.eval_batches())
    for i in range(40):
        kind, batch, numbers = [*Kind][i % 4], next(readers.train.epoch(i)), []
        for steps in (runner, graphed):
            seed_device(device, i)
            steps.train_state.model.train(kind is not Kind.EVALUATION)
            results = copied(run_kind(steps, kind, held_out if kind is Kind.EVALUATION else batch, 1 - i / 50))
            seen = steps.observer.collect()
            numbers.append([*results, *seen.values.values(), *(count for row in seen.histograms for count in row.counts)])
        assert same(numbers[0], numbers[1]), f"step {i}, {kind}"
    assert graphed.captured == [*Kind], graphed.facts()
    assert same(twin.state(), eager.state())


@pytest.mark.cuda
@pytest.mark.parametrize("name", [name for name in PARTS if name != "not deterministic"])
def test_graphs_have_the_bits_of_eager_steps(name: str) -> None:
    assert_graphs_equal_eager(*PARTS[name])


@pytest.mark.cuda
def test_steps_that_are_not_deterministic_are_captured_too() -> None:
    """Not even two eager steps have the same bits then."""
    begun = [begin(*ON_GPU, *PARTS["not deterministic"]) for _ in range(2)]
    eager, graphed = (
        StepRunner(begun[0][2], observer_of(*begun[0])),
        GraphedRunner(begun[1][2], observer_of(*begun[1]), capacity=9),
    )
    for i in range(WARM_STEPS + 4):
        batch = next(begun[0][1].train.epoch(i))
        losses = [runner.train(batch, 1.0).loss.item() for runner in (eager, graphed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3), f"step {i}"
    assert graphed.captured == [Kind.TRAIN]


@pytest.mark.cuda
@pytest.mark.parametrize("name", MODELS)
def test_graphs_of_every_model_have_the_bits_of_eager_steps(name: str) -> None:
    assert_graphs_equal_eager(*MODELS[name])


@pytest.mark.cuda
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.precision=float16", "trainer.grad_clip=1"],
        ["observe=full", "observe.every=7"],
        ["observe=full", "observe.every=3", "observe.histogram_every=6"],
        ["observe=basic", "observe.every=1"],
        ["observe=off", "data.test_size=330"],
    ],
)
def test_captured_run_equals_eager_run(tmp_path: Path, overrides: list[str]) -> None:
    auto, off = (
        train_in_process(tmp_path / choice, [*SMALL, *ON_GPU, *LONG, *overrides, f"trainer.cuda_graph={choice}"])
        for choice in ("auto", "false")
    )
    assert status_of(auto)["cuda_graph"] is True
    assert (status_of(auto)["cuda_graph_reason"], status_of(auto)["cuda_graph_eager"]) == ("", {})
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
        if input.device.type == "cuda" and torch.is_grad_enabled():  # the probe is not seeded
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
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("extra", [[], ["trainer.precision=float16"], ["optimizer=adamw", "optimizer.lr=0.003"]])
def test_replay_never_waits_for_the_device(extra: list[str], kind: Kind) -> None:
    setup, readers, train_state = begin(*ON_GPU, "observe=full", *extra)
    runner = GraphedRunner(train_state, observer_of(setup, readers, train_state), capacity=8)
    batches = [batch for epoch in range(4) for batch in readers.train.epoch(epoch)]
    for batch in batches[: WARM_STEPS + 1]:
        run_kind(runner, kind, batch, 1.0)
        runner.observer.take()
    assert runner.captured == [kind], runner.facts()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[WARM_STEPS + 1 :]:
            run_kind(runner, kind, batch, 0.5)
            runner.observer.take()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_graphs_share_their_memory_and_replay_in_any_order() -> None:
    """The second graph may take the memory in which the first one left its results."""
    runs = [begin(*ON_GPU, "observe=full") for _ in range(2)]
    eager, graphed = StepRunner(runs[0][2], observer_of(*runs[0])), GraphedRunner(runs[1][2], observer_of(*runs[1]), capacity=2)
    order = [kind for kind in Kind for _ in range(WARM_STEPS + 1)] + [*Kind, *reversed(Kind), *Kind]
    for i, kind in enumerate(order):
        batch = next(runs[0][1].train.epoch(i))
        numbers = []
        for runner in (eager, graphed):
            seed_device(runner.train_state.placement.device, i)
            runner.train_state.model.train(kind is not Kind.EVALUATION)
            results = copied(run_kind(runner, kind, batch, 1.0))
            numbers.append([*results, *runner.observer.collect().values.values()])
        assert same(numbers[0], numbers[1]), f"step {i}, {kind}"
    assert graphed.captured == [*Kind]


@pytest.mark.cuda
@pytest.mark.parametrize("call", [WARM_STEPS, WARM_STEPS + 1])
def test_step_that_differs_from_its_replay_stays_eager(call: int) -> None:
    """A part counts its calls in Python: after the warm ones come the capture, then the eager step to compare."""
    runs = [begin(*ON_GPU) for _ in range(2)]
    runner, eager = GraphedRunner(runs[0][2], observer_of(*runs[0]), capacity=1), StepRunner(runs[1][2], observer_of(*runs[1]))
    count = itertools.count()
    runs[0][2].model.register_forward_hook(lambda *given: given[2] * 2 if next(count) == call else None)
    for i in range(WARM_STEPS + 3):
        batch, results = next(runs[1][1].train.epoch(i)), []
        for steps in (runner, eager):
            seed_device(steps.train_state.placement.device, i)
            results.append(copied(steps.train(batch, 1.0)))
        assert same(results[0], results[1]), f"step {i}"
    assert "a replay differs from the eager step" in runner.reason
    assert same(runs[0][2].state(), runs[1][2].state())


@pytest.mark.cuda
@pytest.mark.long
def test_compiled_step_is_captured_with_its_bits(tmp_path: Path) -> None:
    compiled = [*SMALL, *ON_GPU, *LONG, "trainer.compile=true"]
    auto, off = (train_in_process(tmp_path / choice, [*compiled, f"trainer.cuda_graph={choice}"]) for choice in ("auto", "false"))
    assert run_content(auto.path) == run_content(off.path)
