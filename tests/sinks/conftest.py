from pathlib import Path

import pytest

from train.sinks.contracts import RunInfo, Summary


class Clock:
    """A clock that only moves when a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    folder = tmp_path / "init=xavier,norm=batch"
    folder.mkdir()
    return RunInfo(
        folder=folder,
        name="init=xavier norm=batch",
        device="cpu",
        precision="bfloat16",
        parameters=273_066,
        flops_per_image=12_345_678,
        total_steps=1000,
        steps_per_epoch=100,
        epochs=10,
        batch_size=64,
        classes=10,
        data="fashion_mini",
        train_size=9000,
        val_size=1000,
        test_size=2000,
    )


@pytest.fixture
def summary(info: RunInfo) -> Summary:
    return Summary(
        status="done",
        reason="",
        folder=info.folder,
        steps=1000,
        time_s=62.0,
        parameters=273_066,
        flops_per_image=12_345_678,
        val_accuracy=0.871,
        val_examples=1000,
        test_accuracy=0.9,
        test_examples=2500,
        train_loss=0.3211,
        val_loss=0.354,
        test_loss=0.3612,
        images_per_s=2314.2,
        peak_memory_bytes=3 << 29,
    )
