"""Closed forms of signal propagation, reproduced by runs of `train` (trainer.epochs=0), not only by its theory."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import only_run
from train.store.metrics import read_records

Train = Callable[..., "subprocess.CompletedProcess[str]"]


def initial_values(train: Train, folder: Path, *overrides: str) -> dict[str, float]:
    result = train("experiment=lecture_init", *overrides)
    assert result.returncode == 0, result.stderr
    return dict(next(iter(read_records(only_run(folder) / "metrics.jsonl"))).values)


def test_run_gaussian_init_of_005_saturates_tanh(train: Train, tmp_path: Path) -> None:
    """The lecture's second figure: std .87 .85 .85 .85 .85 .85 at width 4096."""
    values = initial_values(train, tmp_path, "init.std=0.05")
    stds = [values[f"activation_std/act{i}"] for i in range(1, 7)]
    assert stds == pytest.approx([0.872, 0.853, 0.850, 0.849, 0.850, 0.850], abs=0.01)
    assert values["activation_saturated/act6"] > 0.3


DEEP = ["model.activation=relu", "model.depth=30", "model.width=1024", "data.shape=[1024,1,1]"]


def test_run_he_init_preserves_the_signal_of_30_relu_layers(train: Train, tmp_path: Path) -> None:
    """He et al. 2015: the second moment stays 2 * q / 2; std sqrt(1 - 1/pi) of activations when q = 2."""
    values = initial_values(train, tmp_path, "init=kaiming", *DEEP)
    first = values["activation_std/act1"]
    assert first == pytest.approx(math.sqrt(1 - 1 / math.pi), abs=0.02)
    stds = [values[f"activation_std/act{i}"] for i in range(2, 31)]
    assert all(0.5 < std / first < 2 for std in stds), "within the scatter of 1024 channels over 30 layers"
    gradients = [values[f"gradient_std/fc{i}"] for i in range(1, 31)]
    assert all(0.5 < gradient / gradients[-1] < 2 for gradient in gradients)


def test_run_xavier_init_with_relu_fades_by_sqrt_2_per_layer(train: Train, tmp_path: Path) -> None:
    """Every layer halves the second moment, forward and backward."""
    values = initial_values(train, tmp_path, "init=xavier", *DEEP)
    forward = (values["activation_std/act30"] / values["activation_std/act1"]) ** (1 / 29)
    backward = (values["gradient_std/fc1"] / values["gradient_std/fc30"]) ** (1 / 29)
    assert forward == pytest.approx(1 / math.sqrt(2), rel=0.02)
    assert backward == pytest.approx(1 / math.sqrt(2), rel=0.02)


def test_run_batch_norm_makes_gradients_explode_backward(train: Train, tmp_path: Path) -> None:
    """Yang et al. 2019: with batch norm -> ReLU -> linear the gradient's variance grows by pi / (pi - 1) a layer."""
    size = ["data.train_size=512", "trainer.batch_size=512", "model.width=512", "data.shape=[512,1,1]", "model.depth=20"]
    values = initial_values(train, tmp_path, "norm=batch", "init=kaiming", "model.activation=relu", *size)
    variances = [values[f"gradient_std/fc{i}"] ** 2 for i in range(1, 21)]
    growth = (variances[2] / variances[17]) ** (1 / 15)
    assert growth == pytest.approx(math.pi / (math.pi - 1), rel=0.05)
    stds = [values[f"activation_std/act{i}"] for i in range(2, 21)]
    assert stds == pytest.approx([math.sqrt(0.5 - 0.5 / math.pi)] * 19, rel=0.03)
