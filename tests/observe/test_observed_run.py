"""Complete runs with the observer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.harness import train_in_process
from tests.observe.reference import BASE, prepared
from train.run.runner import StepRunner
from train.sinks.contracts import Sink
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

RUN = [*BASE, "model.width=4", "model.stages=2", "trainer.epochs=2", "trainer.record_every=1"]
FULL_EVERY_STEP = ["observe=full", "observe.every=1", "observe.histogram_every=1", "observe.probe_size=5"]


MODELS = {
    "convnet": ["model.width=4", "model.stages=2"],
    "mlp": ["model.depth=2", "model.width=16"],
    "plain": ["model.depth=6", "model.width=4"],
    "resnet": ["model.depth=8", "model.width=4"],
    "torchvision": ["model.name=shufflenet_v2_x0_5", "data.shape=[3,64,64]"],
}


def losses_and_accuracies(run: RunFolder) -> list[dict[str, float]]:
    return [
        dict(r.values) for r in read_records(run.metrics_file) if any(tag.startswith(("loss", "accuracy")) for tag in r.values)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_observation_does_not_change_the_trained_weights(precision: str, tmp_path: Path) -> None:
    common = [*RUN, f"trainer.precision={precision}"]
    variants = {"off": ["observe=off"], "full": FULL_EVERY_STEP}
    runs = {name: train_in_process(tmp_path / name, [*common, *options]) for name, options in variants.items()}
    off, full = (torch.load(run.weights_file, weights_only=True) for run in runs.values())
    assert all(torch.equal(off[name], full[name]) for name in off)
    assert losses_and_accuracies(runs["off"]) == losses_and_accuracies(runs["full"])


class Operations(TorchDispatchMode):
    """Counts the operations of torch that are made inside, but those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_observing_a_step_takes_few_operations() -> None:
    """Each is a kernel on a GPU, which takes longer to start than to work on a small tensor."""
    setup, readers = prepared([*BASE, "observe=basic", "norm=batch"])
    train_state = setup.train_state(readers)
    observer = setup.observer(train_state.model, setup.trace(train_state.model), readers)
    runner, batches = StepRunner(train_state, observer), readers.train.epoch(0)
    runner.train(next(batches), 1.0)
    with Operations() as plain:
        runner.train(next(batches), 1.0)
    with Operations() as observed:
        runner.observe(next(batches), 1.0, histograms=False)
    assert (observed.count - plain.count) / len(observer.layers) < 72


def test_second_pass_of_a_step_is_not_observed(tmp_path: Path) -> None:
    """The first step of both runs is the same until its second pass."""
    common = [*RUN, *FULL_EVERY_STEP, "trainer.max_steps=1", "schedule=constant"]
    runs = [train_in_process(tmp_path / name, [*common, f"regularization={name}"]) for name in ("none", "sam")]
    first, second = ([dict(r.values) for r in read_records(run.metrics_file) if r.step == 0] for run in runs)
    signals = [
        {
            tag: value
            for row in rows
            for tag, value in row.items()
            if tag.startswith(("activation", "gradient", "parameter_gradient"))
        }
        for rows in (first, second)
    ]
    assert len(signals[0]) > 30
    assert signals[0] == signals[1]
    weights = [torch.load(run.weights_file, weights_only=True) for run in runs]
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
    assert torch.equal(*(w["stage1.norm1.running_mean"] for w in weights))


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_model_is_observed_in_eager_mode(model: str, precision: str, tmp_path: Path) -> None:
    """Its signals are those of the eager model; its updates are those of the compiled model."""
    torch._dynamo.reset()
    common = [
        *BASE,
        "trainer.epochs=2",
        "trainer.record_every=1",
        f"model={model}",
        *MODELS[model],
        f"trainer.precision={precision}",
    ]
    variants = {
        "eager": FULL_EVERY_STEP,
        "compiled": [*FULL_EVERY_STEP, "trainer.compile=true"],
        "unobserved": ["observe=off", "trainer.compile=true"],
    }
    runs = {name: train_in_process(tmp_path / name, [*common, *options]) for name, options in variants.items()}
    compiled, unobserved = (torch.load(runs[name].weights_file, weights_only=True) for name in ("compiled", "unobserved"))
    assert all(torch.equal(compiled[name], unobserved[name]) for name in compiled)
    assert losses_and_accuracies(runs["compiled"]) == losses_and_accuracies(runs["unobserved"])
    eager, observed = (next(read_records(runs[name].metrics_file)).values for name in ("eager", "compiled"))
    assert eager.keys() == observed.keys()
    before_dropout = [tag for tag in eager if tag.startswith(("probe", "weight", "activation")) and "head" not in tag]
    assert {tag: observed[tag] for tag in before_dropout} == pytest.approx({tag: eager[tag] for tag in before_dropout}, rel=1e-4)
    assert all(observed[tag] > 0 for tag in observed if tag.startswith(("gradient_std", "parameter_gradient_norm")))
    assert all(0 < observed[tag] < 1 for tag in observed if tag.startswith("update_ratio"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_run_without_epochs_records_all_of_step_0(precision: str, tmp_path: Path) -> None:
    options = [*RUN, *FULL_EVERY_STEP, f"trainer.precision={precision}"]
    untrained_run, trained_run = (
        train_in_process(tmp_path / epochs, [*options, f"trainer.epochs={epochs}"]) for epochs in ("0", "1")
    )
    untrained, trained = (next(read_records(run.metrics_file)) for run in (untrained_run, trained_run))
    expected = {tag: value for tag, value in trained.values.items() if not tag.startswith("update_ratio")}
    assert untrained.step == 0
    assert untrained.values == expected
    assert any(tag.startswith("gradient_std") for tag in untrained.values)


def test_probe_is_observed_at_step_0_and_after_every_epoch(tmp_path: Path) -> None:
    run = train_in_process(
        tmp_path / "run", [*RUN, "observe=full", "observe.every=4", "observe.probe_size=6", "trainer.max_steps=5"]
    )
    records = list(read_records(run.metrics_file))
    steps = {prefix: [r.step for r in records if any(t.startswith(prefix) for t in r.values)] for prefix in ("probe", "gradient")}
    assert steps == {"probe": [0, 3, 5], "gradient": [0, 4]}
    assert any(tag.startswith("gradient") for tag in records[0].values), "step 0 is one record"


def test_probe_images_do_not_depend_on_other_options() -> None:
    probes: list[Tensor] = []
    for change in (["seed=1"], ["seed=2", "augment=none"], ["trainer.batch_size=3", "norm=none"]):
        setup, readers = prepared([*BASE, "model.width=4", *change])
        probes.append(setup.probe(readers, 10))
        assert len(setup.probe(readers, 99)) == 24
    assert torch.equal(probes[0], probes[1])
    assert torch.equal(probes[0], probes[2])


def test_probe_images_are_preprocessed_like_the_training_split() -> None:
    setup, readers = prepared(["data=fashion_mini", "augment=none", "model.width=4", "trainer.device=cpu"])
    split = {image.numpy().tobytes() for batch in readers.train.epoch(0) for image in batch.images}
    probe = {image.numpy().tobytes() for image in setup.probe(readers, 50)}
    assert len(probe) == 50
    assert len(probe & split) >= 45, "an epoch of full batches omits the remaining images"


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_plain_first_batch_has_the_images_of_the_first_batch(augment: str) -> None:
    setup, readers = prepared([*BASE, "model.width=4", f"augment={augment}"])
    seen = readers.first_batch.images[:5]
    plain = setup.plain_first_batch(readers, 5)
    assert len(plain) == len(seen)
    for one, other in zip(plain, seen, strict=True):
        assert torch.equal(one, other) or (augment == "flip" and torch.equal(one.flip(-1), other))


class HistogramSink(Sink):
    """Stores the histograms."""

    def __init__(self) -> None:
        self.histograms: list[tuple[str, int, float]] = []

    def histogram(self, tag: str, step: int, edges: Any, counts: Any) -> None:
        assert len(edges) == len(counts) + 1
        self.histograms.append((tag, step, sum(counts)))


def test_histograms_reach_the_sinks_when_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = HistogramSink()
    monkeypatch.setattr("train.run.run_sinks.default_views", lambda *_: [sink])
    common = [item for item in RUN if not item.startswith("model.stages")]
    options = ["observe=full", "observe.every=2", "observe.histogram_every=4"]
    train_in_process(tmp_path / "run", [*common, *options, "model=mlp", "model.depth=1"])
    layers = [("fc1", 8 * 4), ("act1", 8 * 4), ("head", 8 * 4)]
    assert sink.histograms == [(f"activation_histogram/{name}", step, count) for step in (0, 4, 5) for name, count in layers]
