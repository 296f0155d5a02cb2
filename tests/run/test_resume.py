"""A run that was interrupted goes on as if nothing had happened: the same weights, records and TensorBoard points, to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness import go_on_here, run_here
from tests.run import saboteur
from train.run.checkpoint_files import listed
from train.sinks.jsonl import read_records

RUN = [
    "data=noise",
    "data.shape=[3,12,12]",
    "data.train_size=48",
    "data.test_size=24",
    "data.val_fraction=0.25",
    "augment=flip_crop",
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
    "trust=tests",
    "regularization=weight_decay_dropout",
    "schedule=one_cycle",
    "observe=full",
    "observe.every=3",
    "observe.histogram_every=4",
    "observe.probe_size=6",
    "model.width=4",
    "model.stages=2",
    "trainer.batch_size=8",
    "trainer.epochs=5",
    "trainer.device=cpu",
    "trainer.record_every=3",
]
"""Four steps an epoch; everything that a run carries from one step to the next is at work."""

STEPS = 20


class Result(NamedTuple):
    """All that a run leaves, but for the times."""

    weights: bytes
    best: bytes
    rows: list[tuple[int, float, dict[str, float]]]
    summary: dict[str, Any]
    scalars: dict[str, list[tuple[int, float]]]
    histograms: dict[str, list[tuple[int, bytes]]]
    images: dict[str, list[int]]
    curve: str


def result(folder: Path) -> Result:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    summary = json.loads((folder / "summary.json").read_text())
    times = {"time_s", "images_per_s", "peak_memory_bytes", "folder"}
    return Result(
        (folder / "weights.pt").read_bytes(),
        listed(folder, "best")[0].path.read_bytes(),
        [(row.step, row.epoch, dict(row.values)) for row in read_records(folder / "metrics.jsonl")],
        {key: value for key, value in summary.items() if key not in times},
        {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]},
        {
            tag: [(e.step, e.tensor_proto.SerializeToString()) for e in events.Tensors(tag)]
            for tag in tags["tensors"]
            if tag != "config" and not tag.startswith("_")
        },
        {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]},
        "\n".join(sorted(path.name for path in (folder / "figures").iterdir())),
    )


@pytest.fixture(autouse=True)
def fresh_saboteur() -> Iterator[None]:
    saboteur.reset()
    yield
    saboteur.reset()


def interrupted(folder: Path, where: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run that a signal ends at `where`."""
    with monkeypatch.context() as patch:
        patch.setenv("SABOTAGE", where)
        saboteur.reset()
        run_here(folder, overrides)
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"


def went_on(folder: Path, *overrides: str) -> None:
    assert go_on_here(folder, overrides)[1] == "done"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return result(run_here(tmp_path_factory.mktemp("whole") / "run", RUN).path)


MOMENTS = {
    "first step": "train:1:SIGTERM",
    "in the middle of an epoch": "train:7:SIGINT",
    "last step of an epoch": "train:8:SIGTERM",
    "validation": "evaluate:2:SIGTERM",
    "probe": "probe:3:SIGTERM",
    "last step": "train:20:SIGTERM",
    "test": "evaluate:6:SIGTERM",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_goes_on_to_the_bit(whole: Result, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "run", MOMENTS[moment], RUN, monkeypatch)
    went_on(tmp_path / "run")
    assert result(tmp_path / "run") == whole


def test_a_run_interrupted_again_and_again_goes_on_to_the_bit(
    whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: while it was put together, at a step, within the validation, at the probe; and saving on demand."""
    interrupted(tmp_path / "run", "train:1:SIGTERM", RUN, monkeypatch)
    for where in ("train:6:SIGINT", "evaluate:1:SIGTERM", "evaluate:2:SIGINT", "probe:1:SIGTERM", "train:2:SIGUSR1"):
        monkeypatch.setenv("SABOTAGE", where)
        saboteur.reset()
        assert go_on_here(tmp_path / "run")[1] == ("done" if "USR1" in where else "interrupted")
    assert result(tmp_path / "run") == whole
