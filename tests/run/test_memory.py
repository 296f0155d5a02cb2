"""The estimate of a run's GPU memory: against sums by hand, and against what torch's allocator held at most."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.harness import compose_config, settings_for, train_in_process
from train.data.array_reader import ArrayReader
from train.data.batches import Batching
from train.data.contracts import Arrays, Splits
from train.data.readers import ReaderSettings, open_readers
from train.data.split import split_validation
from train.run.build import Parts, build
from train.run.config_check import ConfigCheck
from train.run.dry_run import check_configs
from train.run.memory import CONTEXT_BYTES, LIVE_TENSORS, MARGIN, TrainingMemory, data_bytes, needed_bytes, saved_bytes
from train.run.memory import training_memory as estimate

FLOAT = 4
MLP = "data=noise data.shape=[1,28,28] model=mlp model.depth=2 model.width=100"
CONVNET = "data=noise data.shape=[3,10,12] data.classes=7 model.width=8 model.stages=2 model.convs=2"


def parts(overrides: str) -> Parts:
    return build(settings_for(overrides.split()))


@pytest.mark.parametrize(
    ("optimizer", "copies"), [("sgd", 1), ("sgd optimizer.momentum=0 optimizer.nesterov=false", 0), ("adamw", 2)]
)
def test_memory_of_mlp(optimizer: str, copies: int) -> None:
    """784 -> 100 -> 100 -> 10. Each linear layer saves its input; that of the second and third is what a ReLU returned."""
    memory = estimate(parts(f"{MLP} norm=none optimizer={optimizer}"), 8)
    weights = FLOAT * (784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10)
    steps = FLOAT * 6 if optimizer == "adamw" else 0
    inputs = [FLOAT * 8 * values for values in (784, 100, 100)]
    assert memory == TrainingMemory(weights, weights, copies * weights + steps, sum(inputs), max(inputs))


def test_memory_of_convnet() -> None:
    """Two convolutions of 8 channels at 10x12, two of 16 at 5x6: each output is saved by its norm, that of the norm by the ReLU,
    which overwrites it and gives the next layer its input. A norm saves mean and deviation of each channel."""
    memory = estimate(parts(f"{CONVNET} norm=batch augment=none"), 4)
    image, maps = FLOAT * 4 * 3 * 120, [FLOAT * 4 * 8 * 120, FLOAT * 4 * 16 * 30]
    channels, head = 8 + 8 + 16 + 16, FLOAT * 4 * 16
    assert memory.activations == image + 2 * 2 * sum(maps) + 2 * FLOAT * channels + head
    assert memory.largest == max(maps)
    parameters = 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 2 * channels + 16 * 7 + 7
    assert (memory.gradients, memory.optimizer) == (FLOAT * parameters, FLOAT * parameters)
    running = FLOAT * 2 * channels + 8 * 4  # mean, variance, and how many batches a norm has seen
    assert memory.weights == FLOAT * parameters + running


def test_memory_is_saved_once_whatever_looks_at_it() -> None:
    """The square and the two products save the same values, by views of other shapes."""

    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = x * 2
            return hidden.square().sum() + (hidden.flatten() * hidden.view(-1)).sum() + (hidden.T @ hidden).sum()

    images = torch.empty(6, 5, device="meta", requires_grad=True)
    assert saved_bytes(Looks(), images) == [FLOAT * 30]


def test_memory_of_frozen_parameters() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).requires_grad_(False)
    assert saved_bytes(model, torch.empty(3, 4, device="meta")) == [], "nothing is saved for gradients that nobody wants"


@pytest.mark.parametrize("model", ["convnet", "resnet", "plain", "mlp"])
def test_memory_grows_with_the_batch(model: str) -> None:
    made = parts(f"data=noise model={model} norm=batch")
    needed = [needed_bytes(made, batch, 0) for batch in (16, 32, 64, 128, 256)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1]
    memory = [estimate(made, batch) for batch in (32, 64)]
    assert memory[1].activations == pytest.approx(2 * memory[0].activations, rel=0.01)
    assert memory[0].weights == memory[1].weights


def test_memory_needed_is_the_sum_of_its_parts() -> None:
    made = parts(f"{MLP} norm=none")
    memory = estimate(made, 512)
    kept = memory.weights + memory.gradients + memory.optimizer
    assert memory.peak == kept + memory.activations + (1 + 4) * LIVE_TENSORS * memory.largest, "evaluations have larger batches"
    wide = estimate(parts("data=noise model=mlp model.width=4096 norm=none"), 1)
    assert wide.peak == wide.weights + 2 * wide.gradients + wide.optimizer, "an update, where the weights are larger"
    assert needed_bytes(made, 512, 10**9) == CONTEXT_BYTES + 10**9 + int(MARGIN * memory.peak)


def test_memory_of_data_is_that_of_all_splits() -> None:
    made = parts("data=noise data.shape=[3,8,8] data.train_size=100 data.test_size=30")
    splits = split_validation(made.dataset.load(), 0.2, 0)
    assert data_bytes(splits) == 130 * (splits.train.images.element_size() * 3 * 8 * 8 + 8)  # pyright: ignore


def cifar10(device: str, share: int = 1) -> Splits:
    """A `share`-th of 50,000 and 10,000 images of 3 x 32 x 32 bytes."""
    sizes = (45_000 // share, 5_000 // share, 10_000 // share)
    train, val, test = (
        Arrays(
            torch.zeros(size, 3, 32, 32, dtype=torch.uint8, device=device), torch.zeros(size, dtype=torch.int64, device=device)
        )
        for size in sizes
    )
    return Splits(train, test, val)


def test_memory_of_cifar10_is_what_the_readers_keep() -> None:
    """The images stay bytes. README.md gives the first number."""
    assert data_bytes(cifar10("meta")) == 60_000 * (3 * 32 * 32 + 8) == 184_800_000
    splits, made = cifar10("cpu", share=1000), parts("data=noise")
    batching = Batching(batch_size=8, device=torch.device("cpu"), order_seed=0, augment_seed=0)
    readers = open_readers(made.dataset, splits, made.pipeline, ReaderSettings("none", 0, batching))
    kept = [reader for reader in (readers.train, readers.val, readers.test) if isinstance(reader, ArrayReader)]
    assert sum(reader.images.nbytes + reader.labels.nbytes for reader in kept) == data_bytes(splits)


def test_check_of_a_sweep_gives_the_memory_where_it_is_asked_for() -> None:
    config = compose_config([*MLP.split(), "norm=none", "data.train_size=600", "data.test_size=30"])
    bad = compose_config([*MLP.split(), "norm=none", "data.train_size=60", "data.test_size=30", "trainer.batch_size=100"])
    fine, refused = check_configs(([config, bad], (), True, ()))
    assert fine.problem is None
    assert fine.needed_bytes is not None
    assert fine.needed_bytes > CONTEXT_BYTES + 630 * 28 * 28
    assert refused.problem is not None
    assert refused.needed_bytes is None
    assert [replace(check, inputs=None) for check in check_configs(([config], (), False, ()))] == [ConfigCheck()]


CUBLAS_WORKSPACE = 8 * 4096 * 2**10
"""Bytes that torch allocates for each stream, by CUBLAS_WORKSPACE_CONFIG=:4096:8."""


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["model=resnet norm=batch", "model=resnet norm=group", "model=convnet", "model=mlp"])
def test_memory_covers_the_peak_of_the_allocator(tmp_path: Path, case: str, precision: str) -> None:
    """On a training of 512 images a batch, observed, and not by so much that most of the GPU would lie idle."""
    run = [*case.split(), "data=noise", "data.shape=[3,32,32]", "data.train_size=2048", "data.test_size=2048"]
    run += ["trainer.batch_size=512", "trainer.epochs=2", "observe=full", f"trainer.precision={precision}", "trainer.device=cuda"]
    settings = settings_for(run)
    made = build(settings)
    size = data_bytes(split_validation(made.dataset.load(), settings.data.val_fraction, settings.seeds.split))
    torch.cuda.empty_cache()
    folder = train_in_process(tmp_path / "run", run)
    workspaces = 2 * CUBLAS_WORKSPACE  # on the streams of eager steps and of captures; a part of CONTEXT_BYTES
    peak = json.loads(folder.summary_file.read_text())["peak_memory_bytes"] - workspaces
    needed = needed_bytes(made, 512, size) - CONTEXT_BYTES
    assert peak <= needed, f"{peak / 2**20:.0f} MiB of {needed / 2**20:.0f} MiB"
    assert needed <= 8 * peak, f"{peak / 2**20:.0f} MiB of {needed / 2**20:.0f} MiB"
