"""The steps of a run as CUDA graphs: on a CPU its static steps without one, and when a run is captured."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scripts import catalogue
from tests.harness import train_in_process
from tests.run.twins import (
    MODELS,
    ON_CPU,
    PARTS,
    SMALL,
    VARIANTS,
    Rows,
    begin,
    begin_with,
    copied,
    loop_of,
    new_loop,
    observer_of,
    run_kind,
    same,
    status_of,
    uncaptured,
)
from tests.steps import train_step
from train.data.contracts import Batch
from train.errors import UsageError
from train.rng import seed_device
from train.run.capture import Capture, capturable, shortage_of
from train.run.checkpoint import encode_checkpoint
from train.run.graph_choice import foreign_part
from train.run.graphs import WARM_STEPS, GraphedRunner
from train.run.loop import Loop, NoSaver, Reader
from train.run.runner import Kind, StepRunner, evaluate
from train.run.signals import StopSignal
from train.run.static_step import first_difference
from train.run.step import rates_for

CPU = torch.device("cpu")


# Static steps, on a CPU

OBSERVED_KINDS = [Kind.OBSERVED, Kind.HISTOGRAMS]


@pytest.mark.parametrize("name", VARIANTS)
def test_static_steps_equal_eager_ones(name: str) -> None:
    """Results, state and random generator agree in warm steps, in the step that is run both ways, and in later ones."""
    setup, readers, eager = begin(*ON_CPU, *VARIANTS[name])
    _, _, twin = begin(*ON_CPU, *VARIANTS[name])
    runner = StepRunner(eager, observer_of(setup, readers, eager))
    static = uncaptured(twin, observer_of(setup, readers, twin), capacity=3)
    expected, measured = [], []
    for i in range(8):
        batch = next(readers.train.epoch(i))
        seed_device(CPU, i)
        expected.append(copied(runner.train(batch, 1 - i / 10)))
        random = torch.get_rng_state()
        seed_device(CPU, i)
        measured.append(static.train(batch, 1 - i / 10))
        assert torch.equal(torch.get_rng_state(), random)
        assert same([copied(m) for m in measured[-3:]], expected[-3:]), "the last results stay valid"
    assert static.captured == [Kind.TRAIN], static.facts()
    assert same(twin.state(), eager.state())


TRAIN_AND_EVALUATION = [Kind.TRAIN, Kind.EVALUATION]
WITHOUT_HISTOGRAMS = [Kind.TRAIN, Kind.OBSERVED, Kind.EVALUATION]
ALL = [Kind.TRAIN, *OBSERVED_KINDS, Kind.EVALUATION]
LOOPS = {
    **{name: (overrides, WITHOUT_HISTOGRAMS) for name, overrides in VARIANTS.items()},
    "observed": (["observe=basic", "observe.every=2"], WITHOUT_HISTOGRAMS),
    "observed always": (["observe=full", "observe.every=1", "observe.histogram_every=2"], [*OBSERVED_KINDS, Kind.EVALUATION]),
    "observed layer": (["observe=full", "observe.every=2", "observe.layers=head"], ALL),
    "two passes": (VARIANTS["two passes"], ALL),
    "frozen in the second epoch": (VARIANTS["frozen in the second epoch"], TRAIN_AND_EVALUATION),  # once observed after that
    "no norm": (["norm=none", "observe=full", "observe.every=2"], ALL),
    "no probe": (["observe=basic", "observe.probe_size=0"], WITHOUT_HISTOGRAMS),
    "nothing observed": (["observe=off"], TRAIN_AND_EVALUATION),
}
"""Overrides, and the kinds of steps that are static at the end."""


SHORT = {"float16 clipped", "adamw", "observed", "observed always", "no norm"}


@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in LOOPS])
def test_loop_of_static_steps_makes_the_same_records(name: str) -> None:
    overrides, kinds = LOOPS[name]
    (eager, expected), (loop, rows) = (new_loop(*overrides, static=static) for static in (False, True))
    ended = eager.run(), loop.run()
    assert isinstance(loop.runner, GraphedRunner)
    assert loop.runner.captured == kinds, loop.runner.facts()
    assert (loop.runner._probe is None) == (name in ("no probe", "nothing observed"))
    assert rows.rows == expected.rows
    assert rows.rows[-1][0] == 14
    assert same(loop.train_state.state(), eager.train_state.state())
    assert dataclasses.replace(ended[0], train_s=0.0) == dataclasses.replace(ended[1], train_s=0.0)


def test_loop_of_static_steps_over_image_files_makes_the_same_records(tmp_path: Path) -> None:
    catalogue.write_images(tmp_path)
    folder = [word for word in catalogue.overrides_of(catalogue.IMAGE_FOLDER) if "max_steps" not in word and "epochs" not in word]
    more = [f"data.root={tmp_path}", "augment=[multi_scale,flip]", "trainer.epochs=4", "trainer.max_steps=11", "observe.every=2"]
    (eager, expected), (loop, rows) = (loop_of(begin_with(folder, *more, *ON_CPU), static) for static in (False, True))
    eager.run()
    loop.run()
    assert isinstance(loop.runner, GraphedRunner)
    assert loop.runner.captured == [Kind.TRAIN, Kind.OBSERVED, Kind.EVALUATION]
    assert rows.rows == expected.rows
    assert same(loop.train_state.state(), eager.train_state.state())


@pytest.mark.parametrize("every", [2, 50])
def test_loop_of_static_steps_diverges_at_the_same_step(every: int) -> None:
    poison = ["data._target_=tests.run.test_loop.poisoned", "+data.bad=5", "data.val_fraction=0", "data.preprocess=none"]
    options = ["augment=none", f"observe.every={every}", "trainer.epochs=9", "trainer.max_steps=null", "trainer.record_every=4"]
    (eager, expected), (loop, rows) = (new_loop(*poison, *options, static=static) for static in (False, True))
    ended = eager.run(), loop.run()
    assert ended[1].status == "diverged"
    assert (ended[0].reason, ended[0].steps) == (ended[1].reason, ended[1].steps)
    assert rows.rows == expected.rows
    assert same(loop.train_state.state(), eager.train_state.state())


class BrokenReader:
    """A reader that fails after some batches of the first epoch."""

    def __init__(self, reader: Reader, batches: int) -> None:
        self.reader, self.batches = reader, batches
        self.steps_per_epoch = reader.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from itertools.islice(self.reader.epoch(epoch, start), self.batches)
        raise OSError("the disk is gone")

    def eval_batches(self) -> Iterator[Batch]:
        return self.reader.eval_batches()


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_loop_that_fails_has_recorded_every_step_before(batches: int) -> None:
    """Also what was measured in the last of them, and waits for the next one where steps are launched ahead."""
    seen = []
    for static in (False, True):
        loop, rows = new_loop("observe.every=2", "trainer.record_every=1", static=static)
        with pytest.raises(OSError, match="the disk is gone"):
            dataclasses.replace(loop, train=BrokenReader(loop.train, batches)).run()
        seen.append(rows.rows)
    assert seen[0] == seen[1]
    assert seen[0][-1][0] == batches


class NotingSaver(NoSaver):
    """Notes how many records there are whenever the state would be saved: after every step."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.noted = rows, list[int]()

    def due(self, done: int) -> bool:  # noqa: ARG002
        return True

    def save(self, loop: Loop) -> None:
        self.noted.append(len(self.rows.rows))
        loop.state()


def test_checkpoint_comes_after_all_records_before_it() -> None:
    savers = []
    for static in (False, True):
        loop, rows = new_loop("observe.every=2", static=static)
        savers.append(NotingSaver(rows))
        dataclasses.replace(loop, saver=savers[-1]).run()
    assert savers[0].noted == savers[1].noted
    assert len(savers[0].noted) == 14


class NotingCapture(Capture):
    """Notes how many records there are whenever a step is launched, and what it is launched for."""

    def __init__(self) -> None:
        self.rows: Rows | None = None
        self.noted = list[list[int]]()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        self.noted.append(noted := [])

        def launch() -> None:
            assert self.rows is not None
            noted.append(len(self.rows.rows))
            step()

        return launch


def test_next_step_is_launched_before_the_measurements_of_an_observed_one_are_recorded() -> None:
    """Else a GPU would have nothing to do until the host has recorded them."""
    capture = NotingCapture()
    overrides = ["observe.every=4", "observe.every_step=false", "observe.probe_size=0", "trainer.record_every=50"]
    whole = [*overrides, "data.val_fraction=0", "trainer.max_steps=11"]
    loop, rows = loop_of(begin(*ON_CPU, *whole), static=True, capture=capture)
    capture.rows = rows
    loop.run()
    trained = capture.noted[0]
    assert [row[0] for row in rows.rows] == [0, 4, 8, 10, 11]
    assert trained == [1, 1, 2, 2, 2], "before steps 3, 5, 6, 7 and 9: the record of step 4 follows step 5"


@pytest.mark.parametrize("end", [4, pytest.param(9, marks=pytest.mark.long)])
@pytest.mark.parametrize(("static", "more"), [(False, []), (True, []), (False, ["augment=cutmix", "optimizer=muon"])])
def test_checkpoint_between_static_steps_resumes_both_ways(end: int, static: bool, more: list[str]) -> None:
    loop, whole = new_loop("observe.every=2", *more, static=False)
    loop.run()
    first, began = new_loop("observe.every=2", *more, static=True, end=end)
    assert first.run().status == "interrupted"
    second, ended = new_loop("observe.every=2", *more, static=static)
    content = io.BytesIO(encode_checkpoint({"loop": first.state()}))
    second.load_state(torch.load(content, weights_only=True)["loop"])
    second.run()
    assert [*began.rows, *ended.rows] == whole.rows
    assert same(second.train_state.state(), loop.train_state.state())


def test_static_evaluation_has_the_score_of_eager_steps_and_changes_nothing() -> None:
    """Full batches are static, the smaller last one is eager; the running averages of later updates count."""
    setup, readers, train_state = begin(*ON_CPU, "data.test_size=330")
    observer = observer_of(setup, readers, train_state)
    eager, static = StepRunner(train_state, observer), uncaptured(train_state, observer, capacity=1)
    losses = set[float]()
    for step in range(3):
        train_state.model.train()
        eager.train(next(readers.train.epoch(step)), 1.0)
        before = copy.deepcopy(train_state.state())
        scores = [evaluate(runner, readers.test.eval_batches(), StopSignal()) for runner in (eager, static)]
        assert scores[0] == scores[1]
        assert same(train_state.state(), before)
        assert static.captured == [Kind.EVALUATION]
        losses |= {score.loss for score in scores if score}
    assert len(losses) == 3


# One step both ways


def acting_at(calls: Collection[int], act: Callable[[nn.Module, Tensor], Tensor | None]) -> Any:
    """Return a forward hook that counts its calls in Python and calls `act` in some of them."""
    count = itertools.count()

    def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        return act(module, output) if next(count) in calls else None

    return hook


def scale(_: nn.Module, output: Tensor) -> Tensor:
    return output * 1.001


def shift_average(norm: nn.Module, _: Tensor) -> None:
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    norm.running_mean.data.add_(1e-6)


def become_nan(_: nn.Module, output: Tensor) -> Tensor:
    return output + float("nan")


IN_EAGER, IN_STATIC = WARM_STEPS, WARM_STEPS + 1
"""Calls of a part in the step that is run both ways. The call after is in the step that counts."""
DRIFTS = [
    (Kind.TRAIN, IN_EAGER, "head", scale, "the loss"),
    (Kind.TRAIN, IN_STATIC, "head", scale, "the loss"),
    (Kind.TRAIN, IN_STATIC, "head", become_nan, "the loss"),
    (Kind.TRAIN, IN_STATIC, "norm", shift_average, "running_mean"),
    (Kind.OBSERVED, IN_EAGER, "norm", scale, "the loss"),
    (Kind.OBSERVED, IN_STATIC, "norm", shift_average, "running_mean"),
    (Kind.HISTOGRAMS, IN_STATIC, "norm", scale, "the loss"),
    (Kind.EVALUATION, IN_EAGER, "norm", shift_average, "running_mean"),
    (Kind.EVALUATION, IN_STATIC, "head", become_nan, "the loss"),
]
"""What a part does at one call, and the tensor that tells."""


@pytest.mark.parametrize(("kind", "call", "part", "act", "named"), DRIFTS)
def test_step_that_differs_between_the_two_ways_stays_eager(kind: Kind, call: int, part: str, act: Any, named: str) -> None:
    runs = [begin(*ON_CPU) for _ in range(2)]
    eager, static = StepRunner(runs[0][2], observer_of(*runs[0])), uncaptured(runs[1][2], observer_of(*runs[1]), capacity=2)
    model = runs[1][2].model
    module = next(m for m in model.modules() if isinstance(m, _BatchNorm if part == "norm" else nn.Linear))
    module.register_forward_hook(acting_at([call], act))
    for runner in (eager, static):
        runner.train_state.model.train(kind is not Kind.EVALUATION)
    for i in range(WARM_STEPS + 3):
        batch, numbers = next(runs[0][1].train.epoch(i)), []
        for runner in (eager, static):
            seed_device(CPU, i)
            results = copied(run_kind(runner, kind, batch, 0.5))
            numbers.append([*results, torch.get_rng_state(), *runner.observer.collect().values.values()])
        assert same(numbers[0], numbers[1]), f"step {i}"
        assert same(eager.train_state.state(), static.train_state.state())
    assert static.captured == []
    assert re.search(f"a replay differs from the eager step in .*{named}", static._ways[kind].reason)


@pytest.mark.parametrize("kind", Kind)
def test_demand_for_a_train_step_that_differs_is_refused(kind: Kind) -> None:
    """An evaluation that differs stays eager, whatever is demanded: it may come after the whole training."""
    setup, readers, train_state = begin(*ON_CPU)
    runner = GraphedRunner(train_state, observer_of(setup, readers, train_state), 1, choice=True, capture=Capture())
    train_state.model.register_forward_hook(acting_at([IN_STATIC], scale))
    batch = readers.first_batch
    for _ in range(WARM_STEPS):
        run_kind(runner, kind, batch, 0.5)
        runner.observer.collect()
    message = rf"cuda_graph=true: the {kind} cannot be a CUDA graph: .*trainer\.cuda_graph=auto"
    refused = nullcontext() if kind is Kind.EVALUATION else pytest.raises(UsageError, match=message)
    with refused as error:
        run_kind(runner, kind, batch, 0.5)
    assert runner.captured == []
    assert error is None or error.value.exit_code == 2


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [2.0]}, ""),
        ({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [3.0]}, "b"),
        ({"a": [0.0]}, {"a": [-0.0]}, "a"),
        ({"a": [float("nan")]}, {"a": [float("nan")]}, ""),
        ({"a": [1.0]}, {"a": [1.0], "b": [1.0]}, "b"),
        ({}, {}, ""),
    ],
)
def test_first_difference_compares_bytes(first: dict[str, list[float]], second: dict[str, list[float]], name: str) -> None:
    assert first_difference(*({key: torch.tensor(values) for key, values in of.items()} for of in (first, second))) == name


@pytest.mark.parametrize("call", [2, 3])
def test_probe_that_differs_between_the_two_ways_stays_eager(call: int) -> None:
    """A norm counts the passes on the probe: at the start, the one that is recorded, then the two that are compared."""
    begun = [begin(*ON_CPU) for _ in range(2)]
    norm = next(module for module in begun[1][2].model.modules() if isinstance(module, _BatchNorm))
    count = itertools.count()

    def double(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        on_probe = norm.training and not torch.is_grad_enabled()
        return output * 2 if on_probe and next(count) == call else None

    norm.register_forward_hook(double)
    (eager, expected), (loop, rows) = (loop_of(of, static) for of, static in zip(begun, (False, True), strict=True))
    eager.run()
    loop.run()
    assert isinstance(loop.runner, GraphedRunner)
    assert loop.runner.facts()["cuda_graph_eager"] == {"observation of the probe": "a replay differs from the eager pass"}
    assert rows.rows == expected.rows


class Failing(Capture):
    """Fails at some of its captures, counted from 0, or has no memory left for them."""

    def __init__(self, failures: Collection[int], shortages: Collection[int] = ()) -> None:
        self.failures, self.shortages, self.tries = failures, shortages, -1

    def shortage(self, copies: int) -> str:
        self.tries += 1
        return f"{copies} bytes are missing" if self.tries in self.shortages else ""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if self.tries in self.failures:
            raise RuntimeError("a kernel that cannot be captured\nand more")
        return step


@pytest.mark.parametrize(
    ("every", "failures", "shortages", "captured", "tried"),
    [
        (50, [0], [], [], 1),
        (50, [], [0], [], 1),
        (3, [1], [], [], 2),  # the train step, after an observed one
        pytest.param(3, [], [1], [], 2, marks=pytest.mark.long),
        (2, [1], [], [Kind.TRAIN, Kind.EVALUATION], 4),  # and the train step once more
        (2, [2], [], [Kind.TRAIN, Kind.OBSERVED], 5),  # and both others once more
        pytest.param(2, [], [1], [Kind.TRAIN, Kind.EVALUATION], 3, marks=pytest.mark.long),
        (2, [], [1, 2], [Kind.TRAIN], 3),
        (None, [1], [], WITHOUT_HISTOGRAMS, 5),  # the probe, and the train step once more
        pytest.param(None, [], [1], WITHOUT_HISTOGRAMS, 4, marks=pytest.mark.long),
    ],
)
def test_step_that_cannot_be_captured_stays_eager(
    every: int | None, failures: list[int], shortages: list[int], captured: list[Kind], tried: int
) -> None:
    """`every`: None for the first and last step and a probe."""
    observed = [f"observe.every={every}", "observe.probe_size=0"] if every else []
    overrides, capture = [*observed, "trainer.epochs=5", "trainer.max_steps=19"], Failing(failures, shortages)
    begun = [begin(*ON_CPU, *overrides) for _ in range(2)]
    (eager, expected), (loop, rows) = loop_of(begun[0], static=False), loop_of(begun[1], static=True, capture=capture)
    eager.run()
    loop.run()
    assert isinstance(loop.runner, GraphedRunner)
    facts = loop.runner.facts()
    assert (loop.runner.captured, capture.tries + 1) == (captured, tried), facts
    assert facts["cuda_graph"] is bool(captured)
    reasons = facts["cuda_graph_eager"].values() if captured else [facts["cuda_graph_reason"]]
    assert len(reasons) == len(failures) + len(shortages)
    assert all(reason == "RuntimeError: a kernel that cannot be captured" or "bytes are missing" in reason for reason in reasons)
    assert rows.rows == expected.rows


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_compiled_model_is_static_and_observed_by_eager_steps(compiled: bool) -> None:
    """The steps between two observed ones go through what stands for the model; a static batch compiles nothing anew."""
    loops, compilations = [], list[int]()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        compilations[-1] += 1
        return graph.forward

    for static in (False, True):
        setup, readers, train_state = begin(*ON_CPU, "observe.every=4", "regularization.dropout=0")
        forward = torch.compile(train_state.model, backend=backend) if compiled else partial(train_state.model)
        loops.append(loop_of((setup, readers, dataclasses.replace(train_state, forward=forward)), static))
        compilations.append(0)
        loops[-1][0].run()
    (eager, expected), (loop, rows) = loops
    assert compilations[1] <= compilations[0] == compiled
    assert isinstance(loop.runner, GraphedRunner)
    assert loop.runner.captured == TRAIN_AND_EVALUATION
    assert "compiled" in loop.runner.facts()["cuda_graph_eager"]["observed step"]
    assert rows.rows == expected.rows
    assert same(loop.train_state.state(), eager.train_state.state())


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


@pytest.mark.parametrize(
    ("step", "copies", "free", "enough"),
    [(0, 0, 0, True), (2, 0, 4, True), (2, 0, 3.9, False), (2, 1, 5, True), (2, 1, 4.9, False), (30, 0, 40, False)],
)
def test_graph_needs_room_for_two_steps_and_copies(step: float, copies: float, free: float, enough: bool) -> None:
    reason = shortage_of(int(step * 2**30), int(copies * 2**30), int(free * 2**30))
    assert reason == "" if enough else f"{2 * step + copies:.1f} GiB" in reason and f"{free:.1f} GiB are free" in reason


def test_norm_of_the_users_own_is_foreign() -> None:
    setup, readers, train_state = begin(*ON_CPU, "norm._target_=tests.run.saboteur.norm", "norm=none")
    assert "is a tests.run.saboteur.Saboteur" in foreign_part(train_state.model, train_state.optimizer)
    runner = GraphedRunner(train_state, observer_of(setup, readers, train_state), capacity=1)
    assert runner.facts() == {"cuda_graph": False, "cuda_graph_reason": "the device is cpu"}
