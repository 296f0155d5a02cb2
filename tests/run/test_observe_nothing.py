"""Observing leaves training bit-exact, and measures correctly: against values by hand and the figure of the lecture."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.harness import only_run, train_in_process
from train.data.contracts import Arrays
from train.data.noise import noise
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

Train = Callable[..., "subprocess.CompletedProcess[str]"]

BASE = [
    "data=noise",
    "data.shape=[3,12,12]",
    "data.train_size=48",
    "data.test_size=8",
    "data.val_fraction=0.25",
    "augment=flip_crop",
    "norm=batch",
    "regularization=weight_decay_dropout",
    "model.width=8",
    "model.stages=2",
    "trainer.batch_size=8",
    "trainer.epochs=3",
    "trainer.device=cpu",
    "trainer.record_every=1",
]
"""Dropout, batch norm's running averages and augmentation: everything that a careless observer could disturb."""

OBSERVED = {"off": ["observe=off"], "default": ["observe=basic"], "each step": ["observe=basic", "observe.every=1"]}
STEPS = 12


def trained(folder: Path, overrides: list[str]) -> tuple[dict[str, Tensor], list[dict[str, float]], list[int]]:
    """Return weights and running averages, the training's own records, and the observed steps."""
    run: RunFolder = train_in_process(folder, overrides)
    records = list(read_records(run.metrics_file))
    scores = [dict(record.values) for record in records if any(tag.startswith(("loss", "accuracy")) for tag in record.values)]
    observed = [record.step for record in records if any(tag.startswith("gradient_std") for tag in record.values)]
    return torch.load(run.weights_file, weights_only=True), scores, observed


def moments(folder: Path) -> dict[int, dict[str, float]]:
    """Return step -> mean and std of the layer outputs followed by a batch norm, which are known at every step."""
    records = [r for r in read_records(folder / "metrics.jsonl") if any(tag.startswith("activation_std") for tag in r.values)]
    tags = [tag for tag in records[1].values if tag.startswith(("activation_std", "activation_mean"))]
    return {record.step: {tag: record.values[tag] for tag in tags} for record in records}


def assert_observing_changes_nothing(tmp_path: Path, overrides: list[str], steps: int = STEPS) -> None:
    runs = {name: trained(tmp_path / name.replace(" ", "-"), [*overrides, *how]) for name, how in OBSERVED.items()}
    assert {name: observed for name, (_, _, observed) in runs.items()} == {
        "off": [],
        "default": [0, steps - 1],
        "each step": list(range(steps)),
    }
    expected_weights, expected_scores, _ = runs["off"]
    for name in ("default", "each step"):
        weights, scores, _ = runs[name]
        assert all(torch.equal(weights[key], value) for key, value in expected_weights.items()), name
        assert scores == expected_scores
    from_norms, from_hooks = (moments(tmp_path / name) for name in ("default", "each-step"))
    assert list(from_norms) == list(range(steps))
    for step, values in from_norms.items():
        for tag, value in values.items():
            std = from_hooks[step][tag.replace("_mean", "_std")]
            assert value == pytest.approx(from_hooks[step][tag], abs=1e-3 * std), f"{tag} at step {step}"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_observing_changes_nothing(tmp_path: Path, precision: str) -> None:
    assert_observing_changes_nothing(tmp_path, [*BASE, f"trainer.precision={precision}"])


@pytest.mark.parametrize("model", ["mlp", "resnet model.depth=8"])
def test_observing_changes_nothing_in_other_models(tmp_path: Path, model: str) -> None:
    base = [item for item in BASE if not item.startswith("model.stages")]
    assert_observing_changes_nothing(tmp_path, [*base, *f"model={model}".split()])


@pytest.mark.long
def test_observing_changes_nothing_in_torchvision_model(tmp_path: Path) -> None:
    """The ReLUs of this model work in place."""
    base = [item for item in BASE if not item.startswith("model.")]
    size = ["data.shape=[3,32,32]", "trainer.precision=float32"]
    assert_observing_changes_nothing(
        tmp_path, [*base, "model=torchvision", "model.name=shufflenet_v2_x0_5", *size, "trainer.epochs=1"], STEPS // 3
    )


@pytest.mark.long
def test_observing_changes_nothing_when_compiled(tmp_path: Path) -> None:
    """Compiled runs are compared with compiled runs, as the compiler rounds differently."""
    torch._dynamo.reset()
    assert_observing_changes_nothing(tmp_path, [*BASE, "trainer.precision=float32", "trainer.compile=true"])


def test_replay_matches_run_observed_at_every_step(tmp_path: Path) -> None:
    """By default only step 0 is observed. After divergence the other steps are replayed, without changing anything."""
    diverging = [*BASE, "norm=none", "model.activation=leaky_relu", "optimizer.lr=100", "trainer.precision=float32"]
    ways = {"off": ["observe=off"], "default": [], "each step": ["observe.every=1"]}
    runs = {name: train_in_process(tmp_path / name, [*diverging, *how]) for name, how in ways.items()}
    records = {name: list(read_records(run.metrics_file)) for name, run in runs.items()}
    observed = {
        name: {r.step: dict(r.values) for r in rows if any(tag.startswith("activation_std") for tag in r.values)}
        for name, rows in records.items()
    }
    assert len(observed["each step"]) > 2, "the run diverges, but not at once"
    assert list(observed["default"]) == list(range(len(observed["each step"])))
    assert repr(observed["default"]) == repr(observed["each step"]), "repr, as NaN is not equal to itself"
    assert repr(records["default"][-1].values) == repr(records["off"][-1].values)
    weights = [torch.load(run.weights_file, weights_only=True) for run in runs.values()]
    for state in weights[1:]:
        assert all(torch.equal(weights[0][name].nan_to_num(), value.nan_to_num()) for name, value in state.items())


def test_observed_moments_match_layer_outputs(tmp_path: Path) -> None:
    """Compare the layers of a small MLP on noise, before the first update, with values by hand."""
    overrides = [
        "data=noise",
        "data.shape=[4,2,2]",
        "data.train_size=8",
        "data.test_size=4",
        "data.val_fraction=0",
        "augment=none",
    ]
    size = ["model=mlp", "model.depth=1", "model.width=16", "norm=none", "init=pytorch", "model.activation=sigmoid"]
    fixed = ["trainer.batch_size=8", "trainer.epochs=1", "trainer.device=cpu", "trainer.precision=float32", "optimizer.lr=1e-30"]
    weights, _, _ = trained(tmp_path / "run", [*overrides, *size, *fixed])
    record = next(read_records(tmp_path / "run" / "metrics.jsonl"))
    source = noise([4, 2, 2], train_size=8, test_size=4).load().train  # one batch: its order does not matter
    assert isinstance(source, Arrays)
    hidden = source.images.flatten(1) @ weights["fc1.weight"].T + weights["fc1.bias"]
    outputs = {"fc1": hidden, "act1": hidden.sigmoid()}
    outputs["head"] = outputs["act1"] @ weights["head.weight"].T + weights["head.bias"]
    for statistic in ("activation_mean", "activation_std"):
        assert {tag.partition("/")[2] for tag in record.values if tag.startswith(f"{statistic}/")} == set(outputs)
    for layer, output in outputs.items():
        assert record.values[f"activation_mean/{layer}"] == pytest.approx(output.mean().item(), abs=1e-5)
        assert record.values[f"activation_std/{layer}"] == pytest.approx(output.std(correction=0).item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "expected"),
    [("gaussian", (0.49, 0.29, 0.18, 0.11, 0.07, 0.05)), ("xavier", (0.63, 0.49, 0.41, 0.36, 0.32, 0.29))],
)
def test_observed_std_matches_lecture_figure(train: Train, tmp_path: Path, choice: str, expected: tuple[float, ...]) -> None:
    result = train("experiment=lecture_init", f"init={choice}")
    assert result.returncode == 0, result.stderr
    first = next(read_records(only_run(tmp_path) / "metrics.jsonl"))
    measured = [first.values[f"activation_std/act{layer}"] for layer in range(1, 7)]
    assert first.step == 0
    assert measured == pytest.approx(expected, abs=0.01)
