"""Small complete runs: length, records and their steps, endings, and a slow reference of the loop."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.harness import settings_for, train_in_process
from train import rng
from train.data.contracts import Arrays, Dataset, Splits
from train.data.noise import noise
from train.data.split import split_validation
from train.parts import schedule as schedules
from train.parts.augment import TrainingOnly
from train.parts.contracts import Draws, Schedule, Shape
from train.run.build import build
from train.run.setup import prepare
from train.sinks.contracts import Record
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

BASE = [
    "data=noise",
    "data.shape=[1,8,8]",
    "data.classes=4",
    "data.train_size=24",
    "data.test_size=10",
    "data.val_fraction=0",
    "augment=none",
    "model.width=4",
    "model.stages=2",
    "optimizer.lr=0.05",
    "trainer.batch_size=6",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "trainer.record_every=1",
    "observe=off",
]
"""Four steps an epoch."""

WITH_VALIDATION = ["data.train_size=36", "data.val_fraction=0.3"]


def records(run: RunFolder, tag: str = "") -> list[Record]:
    return [record for record in read_records(run.metrics_file) if not tag or any(key.startswith(tag) for key in record.values)]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# Length of a run


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(3, "null", 12), (3, "7", 7), (3, "12", 12), (3, "99", 12), (1, "4", 4), (2, "1", 1), (2, "0", 0)],
)
def test_run_ends_at_epochs_or_max_steps(tmp_path: Path, epochs: int, max_steps: str, steps: int) -> None:
    run = train_in_process(tmp_path / "run", [*BASE, f"trainer.epochs={epochs}", f"trainer.max_steps={max_steps}"])
    assert read_json(run.summary_file)["steps"] == steps
    assert [record.step for record in records(run, "lr")] == list(range(1, steps + 1))
    assert run.weights_file.exists() == (steps > 0)


@pytest.mark.parametrize(("epochs", "max_steps", "steps"), [(3, "null", 12), (3, "7", 7), (50, "5", 5)])
@pytest.mark.parametrize(
    ("choice", "schedule"),
    [
        ("schedule=cosine schedule.final=0.1 schedule.warmup=0.25", schedules.cosine(final=0.1, warmup=0.25)),
        ("schedule=step", schedules.step()),
        ("schedule=one_cycle", schedules.one_cycle()),
    ],
)
def test_schedule_spans_the_steps_that_run(
    tmp_path: Path, choice: str, schedule: Schedule, epochs: int, max_steps: str, steps: int
) -> None:
    run = train_in_process(
        tmp_path / "run", [*BASE, *choice.split(), f"trainer.epochs={epochs}", f"trainer.max_steps={max_steps}"]
    )
    rates = [record.values["lr"] for record in records(run, "lr")]
    assert rates == pytest.approx([0.05 * schedule(step, steps) for step in range(steps)])


# Records


def test_records_are_written_at_due_steps(tmp_path: Path) -> None:
    cadence = ["trainer.epochs=5", "trainer.record_every=3", "trainer.evaluate_every=2", "observe=basic", "observe.every=8"]
    run = train_in_process(tmp_path / "run", [*BASE, *WITH_VALIDATION, *cadence])
    steps = {
        tag: [record.step for record in records(run, tag)]
        for tag in ("loss/train", "accuracy/val", "gradient_std", "accuracy/test")
    }
    total = 20
    assert steps["loss/train"] == [3, 6, 9, 12, 15, 18, total]
    assert steps["accuracy/val"] == [8, 16, total]
    assert steps["gradient_std"] == [0, 8, 16, total - 1]
    assert steps["accuracy/test"] == [total]
    assert "accuracy/test" in records(run)[-1].values, "the test split is evaluated once, after everything else"
    assert all(record.epoch == pytest.approx(record.step / 4) for record in records(run))
    times = [record.time_s for record in records(run)]
    assert times == sorted(times)


def test_last_step_within_an_epoch_is_evaluated(tmp_path: Path) -> None:
    run = train_in_process(tmp_path / "run", [*BASE, *WITH_VALIDATION, "trainer.epochs=9", "trainer.max_steps=6"])
    assert [record.step for record in records(run, "accuracy/val")] == [4, 6]


def test_run_of_zero_epochs_observes_the_model_and_is_done(tmp_path: Path) -> None:
    run = train_in_process(tmp_path / "run", [*BASE, *WITH_VALIDATION, "trainer.epochs=0", "observe=basic"])
    first, *rest = records(run)
    assert first.step == 0
    assert "activation_std/stage1.act1" in first.values
    assert [sorted(record.values) for record in rest] == [["accuracy/test", "loss/test"]]
    status = read_json(run.status_file)
    assert (status["status"], status["exit_code"]) == ("done", 0)


# A slow reference: the whole training written out, image by image where possible

REFERENCE = [
    *BASE,
    *WITH_VALIDATION,
    "data.test_size=29",
    "trainer.epochs=3",
    "schedule=cosine",
    "regularization.label_smoothing=0.1",
]


def initial_model(overrides: list[str]) -> nn.Module:
    """Return the initial model of a run with these overrides."""
    setup = prepare(settings_for(overrides))
    return setup.train_state(setup.open_readers()).model


def reference_score(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Compute mean loss and accuracy one image at a time."""
    model.eval()
    with torch.no_grad():
        rows = [model(image[None])[0] for image in images]
    losses = [-row.log_softmax(0)[label].item() for row, label in zip(rows, labels.tolist(), strict=True)]
    hits = [row.argmax().item() == label for row, label in zip(rows, labels.tolist(), strict=True)]
    model.train()
    return sum(losses) / len(losses), sum(hits) / len(hits)


def reference_losses(model: nn.Module, splits: Splits) -> list[tuple[float, float]]:
    """Train the configuration REFERENCE with a textbook loop; return each step's loss and accuracy on its batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    assert isinstance(splits.train, Arrays)
    images, labels = splits.train.images, splits.train.labels
    measured: list[tuple[float, float]] = []
    for epoch in range(3):
        order = torch.randperm(len(labels), generator=rng.generator(0, "order", epoch)).split(6)
        for part in (p for p in order if len(p) == 6):
            factor = schedules.cosine()(len(measured), 12)
            logits = model(images[part])
            loss = nn.functional.cross_entropy(logits, labels[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * factor
            optimizer.step()
            measured.append((loss.item(), (logits.argmax(1) == labels[part]).float().mean().item()))
    return measured


@pytest.mark.parametrize("every", [1, 5])
def test_run_matches_reference_loop(tmp_path: Path, every: int) -> None:
    overrides = [*REFERENCE, "regularization.weight_decay=0", f"trainer.record_every={every}"]
    run = train_in_process(tmp_path / "run", overrides)
    splits = split_validation(build(settings_for(overrides)).dataset.load(), 0.3, 0)
    model = initial_model(overrides)
    expected = reference_losses(model, splits)
    start = 0
    for record in records(run, "loss/train"):
        part = expected[start : record.step]
        assert record.values["loss/train"] == pytest.approx(sum(loss for loss, _ in part) / len(part), rel=1e-4)
        assert record.values["accuracy/train"] == pytest.approx(sum(accuracy for _, accuracy in part) / len(part))
        start = record.step
    assert start == 12
    weights = torch.load(run.weights_file, weights_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)
    assert isinstance(splits.val, Arrays)
    assert isinstance(splits.test, Arrays)
    assert len(splits.test) % 24 == 5, "the last batch of an evaluation is partial"
    summary = read_json(run.summary_file)
    for name, split in (("val", splits.val), ("test", splits.test)):
        loss, accuracy = reference_score(model, split.images, split.labels)
        assert summary[f"{name}_loss"] == pytest.approx(loss, rel=1e-4)
        assert summary[f"{name}_accuracy"] == pytest.approx(accuracy)
        assert summary[f"{name}_examples"] == len(split)


# Divergence


def poisoned(bad: int, shape: list[int], classes: int, train_size: int, test_size: int, seed: int) -> Dataset:
    """Return a noise data set in which one value of training image number `bad` is NaN."""

    class Poisoned:
        def __init__(self) -> None:
            self.inner = noise(shape, classes, train_size, test_size, seed)
            self.shape, self.class_names = self.inner.shape, self.inner.class_names

        def load(self) -> Splits:
            splits = self.inner.load()
            assert isinstance(splits.train, Arrays)
            images = splits.train.images.clone()
            images[bad, 0, 3, 3] = math.nan
            return replace(splits, train=Arrays(images, splits.train.labels))

    return Poisoned()


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("bad", [0, 7, 16, 19])
def test_nan_loss_ends_run_at_its_step(tmp_path: Path, norm: str, bad: int) -> None:
    sizes = [
        "data.train_size=20",
        "trainer.epochs=40",
        f"norm={norm}",
        "trainer.record_every=2",
        "observe=basic",
        "observe.every=1",
    ]
    choice = [f"data._target_={__name__}.poisoned", f"+data.bad={bad}"]
    run = train_in_process(tmp_path / "run", [*BASE, *sizes, *choice])
    steps = [
        part
        for epoch in range(40)
        for part in torch.randperm(20, generator=rng.generator(0, "order", epoch)).split(6)
        if len(part) == 6  # an epoch drops the images that do not fill a batch
    ]
    expected = next(step for step, part in enumerate(steps) if bad in part)
    status, summary = read_json(run.status_file), read_json(run.summary_file)
    assert (status["status"], status["exit_code"]) == ("diverged", 3)
    assert status["reason"] == f"the training loss was not finite at step {expected}"
    assert summary["steps"] == expected + 1
    assert summary["train_loss"] == "NaN"
    assert summary["test_accuracy"] is None
    rows = records(run)
    assert [row.step for row in rows if "loss/train" in row.values] == [*range(2, expected + 1, 2), expected + 1]
    assert all(math.isfinite(row.values["loss/train"]) for row in rows if row.step <= expected and "loss/train" in row.values)
    assert math.isnan(next(row for row in rows if "loss/train" in row.values and row.step == expected + 1).values["loss/train"])
    assert not any("accuracy/test" in row.values for row in rows)
    assert run.weights_file.exists()


def breaking(at: int) -> Schedule:
    """Return a schedule that is 1, but at step `at` so large that the update overflows."""
    return lambda step, total: 1e45 if step == at else 1.0  # noqa: ARG005


def breaking_at(step: int, *changes: str) -> list[str]:
    """Return the overrides of a run of three steps, of which `step` breaks the weights."""
    choice = ["schedule=constant", "~schedule.warmup", f"schedule._target_={__name__}.breaking", f"+schedule.at={step}"]
    return [*BASE, "norm=none", "trainer.epochs=1", "trainer.max_steps=3", *choice, *changes]


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("optimizer=adamw",),
        ("trainer.grad_clip=1",),
        ("norm=batch", "trainer.record_every=2"),
        (*WITH_VALIDATION, "observe=basic"),
    ],
    ids=" ".join,
)
def test_weights_that_the_last_update_breaks_are_divergence(tmp_path: Path, changes: tuple[str, ...]) -> None:
    run = train_in_process(tmp_path / "run", breaking_at(2, *changes))
    status, summary = read_json(run.status_file), read_json(run.summary_file)
    assert (status["status"], status["exit_code"]) == ("diverged", 3)
    assert status["reason"] == "the weights were not finite after the last update, at step 2 (the first is stage1.conv1.weight)"
    assert (summary["steps"], summary["val_accuracy"], summary["test_accuracy"]) == (3, None, None)
    losses = [record.values["loss/train"] for record in records(run, "loss/train")]
    assert all(map(math.isfinite, losses))
    assert not list(run.path.rglob("step-*.pt")), "such a run cannot resume"
    assert run.weights_file.exists()


def test_weights_that_an_earlier_update_breaks_end_the_run_at_the_next_loss(tmp_path: Path) -> None:
    run = train_in_process(tmp_path / "run", breaking_at(1))
    assert read_json(run.status_file)["reason"] == "the training loss was not finite at step 2"


def test_diagnosis_of_a_broken_last_update_names_the_layer_and_what_a_replay_shows(tmp_path: Path) -> None:
    run = train_in_process(tmp_path / "run", breaking_at(2, "observe=basic"))
    diagnosis = read_json(run.status_file)["diagnosis"]
    assert (diagnosis["kind"], diagnosis["finding"], diagnosis["step"]) == ("diverged", "not_finite", 2)
    assert diagnosis["layer"] == "stage1.conv1"
    assert diagnosis["text"].startswith("the run diverged: the weights were not finite after the last update, at step 2")
    assert [step for step, _ in diagnosis["before"]] == [0, 1], "although only steps 0 and 2 are due to be observed"
    assert diagnosis["advice"]


# Interruption


def interrupting(at: int) -> Schedule:
    """Return a constant schedule that raises SIGINT, as Ctrl-C does, at step `at`."""

    def schedule(step: int, total: int) -> float:  # noqa: ARG001
        if step == at:
            signal.raise_signal(signal.SIGINT)
        return 1.0

    return schedule


class Interrupting(TrainingOnly):
    """An augmentation that changes no image and raises SIGTERM when the first evaluation begins."""

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        return {}

    def apply(self, images: Tensor, choices: Draws) -> Tensor:  # noqa: ARG002
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGTERM)
        return images


def interrupting_evaluation() -> Interrupting:
    return Interrupting()


@pytest.mark.parametrize("at", [0, 5])
def test_signal_ends_run_after_current_step(tmp_path: Path, at: int) -> None:
    choice = ["schedule=constant", "~schedule.warmup", f"schedule._target_={__name__}.interrupting", f"+schedule.at={at}"]
    run = train_in_process(tmp_path / "run", [*BASE, *choice, "trainer.epochs=3"])
    status, summary = read_json(run.status_file), read_json(run.summary_file)
    assert (status["status"], status["exit_code"], summary["steps"]) == ("interrupted", 130, at + 1)
    assert [record.step for record in records(run, "loss/train")] == list(range(1, at + 2))
    assert not records(run, "accuracy/test")
    assert run.weights_file.exists()


@pytest.mark.parametrize(("validation", "steps"), [(WITH_VALIDATION, 4), ([], 12)])
def test_signal_during_evaluation_records_no_score(tmp_path: Path, validation: list[str], steps: int) -> None:
    choice = f"+augment.stop._target_={__name__}.interrupting_evaluation"
    run = train_in_process(tmp_path / "run", [*BASE, *validation, choice, "trainer.epochs=3"])
    status, summary = read_json(run.status_file), read_json(run.summary_file)
    assert (status["status"], status["exit_code"], summary["steps"]) == ("interrupted", 143, steps)
    assert not records(run, "accuracy/val")
    assert not records(run, "accuracy/test")
