"""On a GPU: bit-exact runs in every precision, train steps that never wait, pinned copies, divergence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import train.data.array_reader
from tests.harness import settings_for, train_in_process
from tests.steps import train_step
from train.data.array_reader import ArrayReader
from train.data.readers import Readers
from train.observe.arrival import Arrival
from train.run.divergence import NanWatch
from train.run.setup import Setup, prepare
from train.run.step import TrainState
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
PRECISIONS = ["float32", "bfloat16", "float16"]
RUN = [
    "data=noise",
    "data.shape=[3,16,16]",
    "data.classes=4",
    "data.train_size=80",
    "data.test_size=21",
    "data.val_fraction=0.2",
    "augment=flip_crop",
    "norm=batch",
    "regularization=weight_decay_dropout",
    "model.width=16",
    "model.stages=2",
    "optimizer.lr=0.05",
    "trainer.batch_size=16",
    "trainer.epochs=3",
    "trainer.record_every=1",
    f"trainer.device={DEVICE}",
]
STEPS = 12
POISON = [
    "data._target_=tests.run.test_loop.poisoned",
    "+data.bad=5",
    "augment=none",
    "data.preprocess=none",
    "data.val_fraction=0",
]
"""Overrides for a training image that contains a NaN."""


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def weights(run: RunFolder) -> dict[str, Tensor]:
    return torch.load(run.weights_file, weights_only=True)


def values(run: RunFolder) -> list[tuple[int, dict[str, float]]]:
    return [(record.step, dict(record.values)) for record in read_records(run.metrics_file)]


def same(first: RunFolder, second: RunFolder) -> bool:
    left, right = weights(first), weights(second)
    return all(torch.equal(left[name], right[name]) for name in left | right)


@contextmanager
def forbid_waiting() -> Iterator[None]:
    """Turn an operation that makes the host wait for the GPU into an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def prepare_training(*overrides: str) -> tuple[Setup, Readers, TrainState]:
    setup = prepare(settings_for([*RUN, *overrides]))
    readers = setup.open_readers()
    return setup, readers, setup.train_state(readers)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_run_repeats_bit_exact(tmp_path: Path, precision: str) -> None:
    runs = [train_in_process(tmp_path / name, [*RUN, f"trainer.precision={precision}"]) for name in ("first", "second")]
    assert values(runs[0]) == values(runs[1])
    assert same(*runs)
    status, summary = read_json(runs[0].status_file), read_json(runs[0].summary_file)
    assert (status["status"], status["precision"]) == ("done", precision)
    assert status["device"] == torch.cuda.get_device_name()
    assert (summary["steps"], summary["memory_of"]) == (STEPS, "device")
    assert summary["peak_memory_bytes"] > 0
    losses = [row["loss/train"] for _, row in values(runs[0]) if "loss/train" in row]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert all(value.device.type == "cpu" for value in weights(runs[0]).values()), "weights load without a GPU"


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05), ("float16", 0.02)])
def test_gpu_losses_match_cpu(tmp_path: Path, precision: str, tolerance: float) -> None:
    """The same initial weights, order and augmentation; dropout is off, as each device has its own generator."""
    plain = [*RUN, "regularization.dropout=0", "trainer.max_steps=2"]
    on_gpu = train_in_process(tmp_path / "gpu", [*plain, f"trainer.precision={precision}"])
    on_cpu = train_in_process(tmp_path / "cpu", [*plain, "trainer.device=cpu", "trainer.precision=float32"])
    first, second = ([row["loss/train"] for _, row in values(run) if "loss/train" in row] for run in (on_gpu, on_cpu))
    assert first == pytest.approx(second, rel=tolerance)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("extra", [[], ["trainer.grad_clip=1.0"], ["optimizer=adamw"]], ids=["sgd", "clipped", "adamw"])
def test_train_step_never_waits_for_device(precision: str, extra: list[str]) -> None:
    """From drawing the batch to adding the loss to the NaN watch."""
    optimizer = [item for item in extra if item.startswith("optimizer=")]
    setup, readers, train_state = prepare_training(*optimizer, f"trainer.precision={precision}", *extra)
    watch = NanWatch(setup.placement.device)
    for step, batch in enumerate(readers.train.epoch(0)):  # the first calls allocate, choose algorithms and fill caches
        watch.add(step, train_step(train_state, batch, 1.0).loss)
    with forbid_waiting():
        for step, batch in enumerate(readers.train.epoch(1), start=STEPS // 3):
            watch.add(step, train_step(train_state, batch, 0.5).loss)
            watch.first_nonfinite()
    assert watch.first_nonfinite(wait=True) is None


@pytest.mark.parametrize("augment", ["lecture", "erase", "none"])
def test_reader_epoch_never_waits(augment: str) -> None:
    _, readers, _ = prepare_training(f"augment={augment}", "data.preprocess=standardize")
    list(readers.train.epoch(0))
    with forbid_waiting():
        assert len(list(readers.train.epoch(1))) == STEPS // 3


def test_array_reader_streams_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, resident, _ = prepare_training()
    monkeypatch.setattr(train.data.array_reader, "SHARE_OF_FREE_MEMORY", 0.0)
    _, streamed, _ = prepare_training()
    assert isinstance(resident.train, ArrayReader)
    assert isinstance(streamed.train, ArrayReader)
    assert resident.train.images.is_cuda
    assert not streamed.train.images.is_cuda
    list(streamed.train.epoch(0))
    with forbid_waiting():
        batches = list(streamed.train.epoch(1))
    for streamed_batch, expected in zip(batches, resident.train.epoch(1), strict=True):
        assert torch.equal(streamed_batch.images, expected.images)
        assert torch.equal(streamed_batch.labels, expected.labels)
    for streamed_batch, expected in zip(streamed.test.eval_batches(), resident.test.eval_batches(), strict=True):
        assert torch.equal(streamed_batch.images, expected.images)


def test_nan_watch_finds_first_nonfinite_without_waiting() -> None:
    watch = NanWatch(torch.device(DEVICE))
    losses = torch.tensor([1.0, 2.0, math.nan, 3.0, math.inf], device=DEVICE)
    with forbid_waiting():
        for step in range(5):
            watch.add(step, losses[step])
    assert watch.first_nonfinite(wait=True) == 2


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 50, 4)])
def test_numbers_arrive_without_waiting_and_as_they_were_when_sent(shape: tuple[int, ...]) -> None:
    numbers = torch.randn(shape, device=DEVICE)
    expected = numbers.cpu()
    assert torch.equal(Arrival(numbers).take(), expected)  # the first one takes pinned memory
    with forbid_waiting():
        torch.cuda._sleep(10**8)
        arrival = Arrival(numbers)
        numbers.zero_()
        assert not arrival.is_there
    assert torch.equal(arrival.take(), expected)
    later = Arrival(numbers + 1)
    assert torch.equal(later.take(), torch.ones(shape))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second GPU that torch can use")
def test_nan_watch_waits_for_other_than_current_gpu() -> None:
    device = torch.device(DEVICE, 1)
    watch = NanWatch(device)
    with torch.cuda.device(device):
        torch.cuda._sleep(10**8)
    watch.add(0, torch.full((), math.nan, device=device))
    assert watch.first_nonfinite() is None
    assert watch.first_nonfinite(wait=True) == 0


def test_peak_memory_is_reset_between_runs(tmp_path: Path) -> None:
    sizes = {"large": 64, "small": 4}
    runs = [
        train_in_process(tmp_path / name, [*RUN, f"model.width={width}", "trainer.max_steps=2"]) for name, width in sizes.items()
    ]
    large, small = (read_json(run.summary_file)["peak_memory_bytes"] for run in runs)
    assert small < large


def test_steps_after_divergence_are_not_recorded(tmp_path: Path) -> None:
    """The host is ahead of the GPU and receives a loss that is not finite late."""
    run = train_in_process(tmp_path / "run", [*RUN, *POISON, "trainer.epochs=9"])
    steps = [step for step, row in values(run) if "loss/train" in row]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_divergence_step_matches_cpu(tmp_path: Path, precision: str) -> None:
    """One training image contains a NaN, as in the tests of the loop, where the CPU detects it."""
    length = ["trainer.epochs=9", f"trainer.precision={precision}"]
    runs = [
        train_in_process(tmp_path / device, [*RUN, *POISON, *length, f"trainer.device={device}"]) for device in (DEVICE, "cpu")
    ]
    on_gpu, on_cpu = (read_json(run.status_file) for run in runs)
    assert (on_gpu["status"], on_gpu["exit_code"]) == ("diverged", 3)
    assert on_gpu["reason"] == on_cpu["reason"]
    assert read_json(runs[0].summary_file)["steps"] == read_json(runs[1].summary_file)["steps"]
    assert not any("accuracy/test" in row for _, row in values(runs[0]))
    assert any(math.isnan(row.get("loss/train", 0.0)) for _, row in values(runs[0])), "the NaN itself is recorded"


def test_divergence_in_last_step_is_detected(tmp_path: Path) -> None:
    """Its loss may not have reached the host when the loop ends."""
    run = train_in_process(
        tmp_path / "run", [*RUN, "norm=none", "optimizer.lr=1e30", "trainer.max_steps=2", "trainer.precision=float32"]
    )
    assert read_json(run.status_file)["status"] == "diverged"
    assert "step 1" in read_json(run.status_file)["reason"]


def test_loss_scale_adapts_to_overflow() -> None:
    """float16: the first steps with a scale of 2^40 are skipped and halve it, then training continues."""
    _, readers, train_state = prepare_training("trainer.precision=float16")
    assert train_state.scaler.is_enabled()
    batch = next(readers.train.epoch(0))
    before = [parameter.detach().clone() for parameter in train_state.model.parameters()]
    train_step(train_state, batch, 1.0)
    train_state.scaler.update(2.0**40)
    trained = [parameter.detach().clone() for parameter in train_state.model.parameters()]
    assert not all(torch.equal(new, old) for new, old in zip(trained, before, strict=True))
    train_step(train_state, batch, 1.0)
    assert train_state.scaler.get_scale() == 2.0**39
    assert all(torch.equal(new.detach(), old) for new, old in zip(train_state.model.parameters(), trained, strict=True))
    for _ in range(40):
        train_step(train_state, batch, 1.0)
    assert not all(torch.equal(new.detach(), old) for new, old in zip(train_state.model.parameters(), trained, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loss_scaling_is_off_outside_float16(precision: str) -> None:
    assert not prepare_training(f"trainer.precision={precision}")[2].scaler.is_enabled()


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_float32_does_not_use_tf32(deterministic: str) -> None:
    """TF32 keeps 10 bits of the mantissa: the error of its products is about 3e-4, that of float32 about 1e-6."""
    prepare_training("trainer.precision=float32", f"trainer.deterministic={deterministic}")
    generator = torch.Generator().manual_seed(0)

    def error(function: Callable[[Tensor, Tensor], Tensor], *shapes: list[int]) -> float:
        first, second = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
        exact = function(first.double(), second.double())
        return ((function(first, second).double() - exact).abs().mean() / exact.abs().mean()).item()

    assert error(torch.matmul, [256, 256], [256, 256]) < 3e-5
    assert error(functional.conv2d, [8, 64, 16, 16], [64, 64, 3, 3]) < 3e-5


def test_auto_precision_takes_fast_bfloat16() -> None:
    setup, readers, train_state = prepare_training("trainer.precision=auto")
    fast = torch.cuda.get_device_capability() >= (8, 0)
    assert setup.placement.precision == ("bfloat16" if fast else "float32")
    assert setup.placement.layout == "channels_last"
    batch = next(readers.train.epoch(0))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.is_cuda for parameter in train_state.model.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_observing_changes_nothing(tmp_path: Path, precision: str) -> None:
    observed = {"off": ["observe=off"], "each": ["observe=basic", "observe.every=1"]}
    off, each = (
        train_in_process(tmp_path / name, [*RUN, f"trainer.precision={precision}", *overrides])
        for name, overrides in observed.items()
    )
    assert same(off, each)
    assert sum("activation_std/head" in row for _, row in values(each)) == STEPS
