"""A run that was interrupted goes on as if nothing had happened: the same weights, records and TensorBoard points, to the bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness import resume_here, run_here
from tests.run import saboteur
from train.errors import UsageError
from train.parts import schedule
from train.run.checkpoint_files import list_checkpoints
from train.run.resume import refuse_new_length
from train.sinks.jsonl import read_records
from train.store.run import read_run

RUN = [
    "data=noise",
    "data.shape=[3,12,12]",
    "data.train_size=80",
    "data.test_size=24",
    "data.val_fraction=0.5",
    "augment=flip_crop",
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
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
"""Four steps an epoch, two batches to a look at the validation split, one to the test split; everything that a run carries from
one step to the next is at work. Of the forward passes counted as `evaluate`, two are made while a run is put together."""

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
        list_checkpoints(folder, "best")[0].path.read_bytes(),
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


def interrupted(folder: Path, where: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run that a signal ends at `where`."""
    with monkeypatch.context() as patch:
        patch.setenv("SABOTAGE", where)
        saboteur.reset()
        run_here(folder, overrides)
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"


def went_on(folder: Path, *overrides: str) -> None:
    assert resume_here(folder, overrides)[1] == "done"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return result(run_here(tmp_path_factory.mktemp("whole") / "run", RUN).path)


MOMENTS = {
    "last step of an epoch": ("train:8:SIGTERM", 8),
    "last step": ("train:20:SIGTERM", 20),
    "last validation": ("evaluate:11:SIGTERM", 20),
    "test": ("evaluate:13:SIGTERM", 20),
}


@pytest.mark.parametrize("moment", [name if name == "test" else pytest.param(name, marks=pytest.mark.faults) for name in MOMENTS])
def test_a_run_goes_on_to_the_bit(whole: Result, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, step = MOMENTS[moment]
    interrupted(tmp_path / "run", where, RUN, monkeypatch)
    assert f"SIGTERM after step {step};" in read_run(tmp_path / "run").reason
    assert looks(tmp_path / "run") == [4, 8, 12, 16, 20][: 5 if moment == "test" else (step - 1) // 4]
    went_on(tmp_path / "run")
    assert result(tmp_path / "run") == whole


def looks(folder: Path) -> list[int]:
    """The steps after which the validation split was looked at."""
    return [row.step for row in read_records(folder / "metrics.jsonl") if "accuracy/val" in row.values]


AGAIN_AND_AGAIN = {
    "train:6:SIGINT": ("SIGINT after step 7", [4]),
    "evaluate:2:SIGTERM": ("SIGTERM before the first step", [4]),
    "evaluate:3:SIGINT": ("SIGINT after step 8", [4]),
    "probe:1:SIGTERM": ("SIGTERM after step 8", [4, 8]),
    "train:4:SIGINT": ("SIGINT after step 12", [4, 8]),
    "train:2:SIGUSR1": ("", [4, 8, 12, 16, 20]),
}
"""Moment -> what the folder says then, and the steps of the looks at the validation split that are on record by then."""


def test_a_run_interrupted_again_and_again_goes_on_to_the_bit(
    whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: at a step, while it was put together, in the middle of the validation split, at the probe, at the last
    step of an epoch; and saving on demand."""
    interrupted(tmp_path / "run", "train:1:SIGTERM", RUN, monkeypatch)
    for where, (reason, seen) in AGAIN_AND_AGAIN.items():
        monkeypatch.setenv("SABOTAGE", where)
        saboteur.reset()
        assert resume_here(tmp_path / "run")[1] == ("interrupted" if reason else "done")
        assert read_run(tmp_path / "run").reason.startswith(reason)
        assert looks(tmp_path / "run") == seen, where
    assert result(tmp_path / "run") == whole


def test_a_run_that_diverges_after_it_went_on_looks_back_as_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To where the run never interrupted would have begun to look, which is before the interruption."""
    rare = [*RUN, "observe.every=10", "observe.histogram_every=0", "trainer.epochs=2"]
    with monkeypatch.context() as patch:
        patch.setenv("SABOTAGE", "train:6:nan_gradient")
        run_here(tmp_path / "whole", rare)
    interrupted(tmp_path / "run", "train:3:SIGTERM", rare, monkeypatch)
    monkeypatch.setenv("SABOTAGE", "train:3:nan_gradient")
    saboteur.reset()
    assert resume_here(tmp_path / "run")[1] == "diverged"
    rows = [
        [(row.step, row.epoch, {key: repr(value) for key, value in row.values.items()}) for row in read_records(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1]
    assert [step for step, _, values in rows[1] if "weight_std/head" in values] == [0, 1, 2, 3, 4, 5, 6]


# Other configurations; from here on without looking inside, which takes most of the time

PLAIN = [*RUN, "observe=off", "observe.probe_size=0", "observe.every=0", "observe.histogram_every=0"]
OTHERS = {
    "float16 and its loss scale": ["trainer.precision=float16", "optimizer=adamw", "trainer.grad_clip=1.0"],
    "float32, contiguous": ["trainer.precision=float32", "trainer.memory_format=contiguous", "schedule=cosine"],
    "no validation split": ["data.val_fraction=0", "optimizer.momentum=0", "optimizer.nesterov=false"],
}


def plain(folder: Path) -> tuple[bytes, list[tuple[int, float, dict[str, float]]]]:
    rows = [(row.step, row.epoch, dict(row.values)) for row in read_records(folder / "metrics.jsonl")]
    return (folder / "weights.pt").read_bytes(), rows


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_runs_go_on_to_the_bit(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [*PLAIN, *OTHERS[kind]]
    run_here(tmp_path / "whole", run)
    interrupted(tmp_path / "run", "train:10:SIGTERM", run, monkeypatch)
    went_on(tmp_path / "run")
    assert plain(tmp_path / "run") == plain(tmp_path / "whole")


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain(run_here(tmp_path / "whole", PLAIN).path)
    interrupted(tmp_path / "run", "train:10:SIGTERM", PLAIN, monkeypatch)
    for file in list_checkpoints(tmp_path / "run"):
        file.path.unlink()
    went_on(tmp_path / "run")
    assert plain(tmp_path / "run") == whole
    assert "begins again" in (tmp_path / "run" / "train.log").read_text()


# What may change, and what not

CONSTANT = [*PLAIN, "schedule=constant"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(tmp_path_factory.mktemp("done") / "run", [*CONSTANT, "trainer.epochs=2"]).path


def test_a_run_is_made_longer_where_its_schedule_means_the_same(done: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(done, longer)
    went_on(longer, "trainer.epochs=3")
    whole = run_here(tmp_path / "whole", [*CONSTANT, "trainer.epochs=3"]).path
    assert (longer / "weights.pt").read_bytes() == (whole / "weights.pt").read_bytes()
    assert json.loads((longer / "summary.json").read_text())["test_loss"] == pytest.approx(
        json.loads((whole / "summary.json").read_text())["test_loss"], abs=0
    )
    read = read_run(longer)
    assert read.config["trainer"]["epochs"] == 3
    assert read.overrides[-1] == "trainer.epochs=3"
    assert read.identity == read_run(whole).identity
    assert [row.step for row in read_records(longer / "metrics.jsonl") if "accuracy/test" in row.values] == [12]


REFUSED = {
    "regularization.dropout=0.3": "regularization.dropout: 0.5 -> 0.3",
    "init=xavier": "init._target_: train.parts.init.kaiming -> train.parts.init.xavier",
    "seed=4": "seed: 0 -> 4",
    "trainer.device=auto": "trainer.device: cpu -> auto",
    "trainer.epochs=1": "4 steps are fewer than the 8 that this run has made",
    "data.workers=0": "this run is done",
}


@pytest.mark.parametrize("override", REFUSED)
def test_another_configuration_is_refused_with_the_difference(done: Path, override: str) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=re.escape(REFUSED[override])):
        resume_here(done, [override])
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before, "it is left as it is"


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "step"])
def test_a_schedule_that_spans_the_run_is_not_stretched(name: str) -> None:
    made = {"one_cycle": schedule.one_cycle(), "cosine": schedule.cosine(), "step": schedule.step()}[name]
    with pytest.raises(UsageError, match=f"schedule {name} means something else: at step"):
        refuse_new_length(made, name, 8, 12, 8)
    with pytest.raises(UsageError, match="constant means something else"):
        refuse_new_length(schedule.constant(warmup=0.5), "constant", 8, 12, 8)
    refuse_new_length(schedule.constant(), "constant", 8, 12, 8)
    refuse_new_length(schedule.step(), "step", 8, 12, 4)
