"""An interrupted run resumes bit-exact: the same weights, records and TensorBoard points."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness import resume_in_process, train_in_process
from tests.run import saboteur
from train.errors import UsageError
from train.parts import schedule
from train.run.checkpoint import list_checkpoints
from train.run.resume import refuse_new_length
from train.sinks.contracts import TEXTS
from train.store.metrics import read_records
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
"""Four steps per epoch, two batches in the validation split, one in the test split; everything that a run carries from one step
to the next is in use. Of the forward passes counted as `evaluate`, two happen while a run is assembled."""

STEPS = 20


class RunContent(NamedTuple):
    """Everything that a run writes, except times."""

    weights: bytes
    best: bytes
    rows: list[tuple[int, float, dict[str, float]]]
    summary: dict[str, Any]
    scalars: dict[str, list[tuple[int, float]]]
    histograms: dict[str, list[tuple[int, bytes]]]
    images: dict[str, list[int]]
    curve: str


def run_content(folder: Path) -> RunContent:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    summary = json.loads((folder / "summary.json").read_text())
    times = {"time_s", "images_per_s", "peak_memory_bytes", "folder"}
    return RunContent(
        (folder / "weights.pt").read_bytes(),
        list_checkpoints(folder, "best")[0].path.read_bytes(),
        [(row.step, row.epoch, dict(row.values)) for row in read_records(folder / "metrics.jsonl")],
        {key: value for key, value in summary.items() if key not in times},
        {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]},
        {
            tag: [(e.step, e.tensor_proto.SerializeToString()) for e in events.Tensors(tag)]
            for tag in tags["tensors"]
            if tag not in ("config", TEXTS["result"]) and not tag.startswith("_")  # with times; the summary has the results
        },
        {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]},
        "\n".join(sorted(path.name for path in (folder / "figures").iterdir())),
    )


def start_interrupted_run(folder: Path, where: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run that a signal ends at `where`."""
    with monkeypatch.context() as patch:
        patch.setenv("SABOTAGE", where)
        saboteur.reset()
        train_in_process(folder, overrides, figures=True)
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"


def resume_to_end(folder: Path, *overrides: str) -> None:
    assert resume_in_process(folder, overrides)[1] == "done"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunContent:
    return run_content(train_in_process(tmp_path_factory.mktemp("uninterrupted") / "run", RUN, figures=True).path)


MOMENTS = {
    "last step of an epoch": ("train:8:SIGTERM", 8),
    "last step": ("train:20:SIGTERM", 20),
    "last validation": ("evaluate:9:SIGTERM", 20),
    "test": ("evaluate:11:SIGTERM", 20),
}


@pytest.mark.parametrize("moment", [name if name == "test" else pytest.param(name, marks=pytest.mark.long) for name in MOMENTS])
def test_resume_after_signal_is_bit_exact(
    uninterrupted: RunContent, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, step = MOMENTS[moment]
    start_interrupted_run(tmp_path / "run", where, RUN, monkeypatch)
    assert f"SIGTERM after step {step};" in read_run(tmp_path / "run").reason
    assert evaluated_steps(tmp_path / "run") == [4, 8, 12, 16, 20][: 5 if moment == "test" else (step - 1) // 4]
    resume_to_end(tmp_path / "run")
    assert run_content(tmp_path / "run") == uninterrupted


def evaluated_steps(folder: Path) -> list[int]:
    """Return the steps after which the validation split was evaluated."""
    return [row.step for row in read_records(folder / "metrics.jsonl") if "accuracy/val" in row.values]


REPEATED_SIGNALS = {
    "train:6:SIGINT": ("SIGINT after step 7", [4]),
    "trace:1:SIGTERM": ("SIGTERM before the first step", [4]),
    "evaluate:1:SIGINT": ("SIGINT after step 8", [4]),
    "probe:1:SIGTERM": ("SIGTERM after step 8", [4, 8]),
    "train:4:SIGINT": ("SIGINT after step 12", [4, 8]),
    "train:2:SIGUSR1": ("", [4, 8, 12, 16, 20]),
}
"""Moment -> the reason in the folder then, and the steps whose validation scores are recorded by then."""


@pytest.mark.long
def test_repeated_resume_is_bit_exact(uninterrupted: RunContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt at a step, during assembly, within the validation split, at the probe and at the last step of an epoch; then
    save on demand."""
    start_interrupted_run(tmp_path / "run", "train:1:SIGTERM", RUN, monkeypatch)
    for where, (reason, evaluated) in REPEATED_SIGNALS.items():
        monkeypatch.setenv("SABOTAGE", where)
        saboteur.reset()
        assert resume_in_process(tmp_path / "run")[1] == ("interrupted" if reason else "done")
        assert read_run(tmp_path / "run").reason.startswith(reason)
        assert evaluated_steps(tmp_path / "run") == evaluated, where
    assert run_content(tmp_path / "run") == uninterrupted


def test_replay_of_resumed_run_matches_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay starts at the same step as in an uninterrupted run, which is before the interruption."""
    rare = [*RUN, "observe.every=10", "observe.histogram_every=0", "trainer.epochs=2"]
    with monkeypatch.context() as patch:
        patch.setenv("SABOTAGE", "train:6:nan_gradient")
        train_in_process(tmp_path / "uninterrupted", rare, figures=True)
    start_interrupted_run(tmp_path / "run", "train:3:SIGTERM", rare, monkeypatch)
    monkeypatch.setenv("SABOTAGE", "train:3:nan_gradient")
    saboteur.reset()
    assert resume_in_process(tmp_path / "run")[1] == "diverged"
    rows = [
        [(row.step, row.epoch, {key: repr(value) for key, value in row.values.items()}) for row in read_records(path)]
        for path in (tmp_path / "uninterrupted" / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1]
    assert [step for step, _, values in rows[1] if "weight_std/head" in values] == [0, 1, 2, 3, 4, 5, 6]


# Other configurations; from here on without observers, which take most of the time

PLAIN = [*RUN, "observe=off", "observe.probe_size=0", "observe.every=0", "observe.histogram_every=0"]
OTHER_CONFIGURATIONS = {
    "float16 and its loss scale": ["trainer.precision=float16", "optimizer=adamw", "trainer.grad_clip=1.0"],
    "float32, contiguous": ["trainer.precision=float32", "trainer.memory_format=contiguous", "schedule=cosine"],
    "no validation split": ["data.val_fraction=0", "optimizer.momentum=0", "optimizer.nesterov=false"],
}


def plain_content(folder: Path) -> tuple[bytes, list[tuple[int, float, dict[str, float]]]]:
    rows = [(row.step, row.epoch, dict(row.values)) for row in read_records(folder / "metrics.jsonl")]
    return (folder / "weights.pt").read_bytes(), rows


@pytest.mark.parametrize("kind", OTHER_CONFIGURATIONS)
def test_resume_of_other_configurations_is_bit_exact(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [*PLAIN, *OTHER_CONFIGURATIONS[kind]]
    train_in_process(tmp_path / "uninterrupted", run, figures=True)
    start_interrupted_run(tmp_path / "run", "train:10:SIGTERM", run, monkeypatch)
    resume_to_end(tmp_path / "run")
    assert plain_content(tmp_path / "run") == plain_content(tmp_path / "uninterrupted")


def test_resume_without_checkpoint_starts_at_step_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uninterrupted = plain_content(train_in_process(tmp_path / "uninterrupted", PLAIN).path)
    start_interrupted_run(tmp_path / "run", "train:10:SIGTERM", PLAIN, monkeypatch)
    for file in list_checkpoints(tmp_path / "run"):
        file.path.unlink()
    resume_to_end(tmp_path / "run")
    assert plain_content(tmp_path / "run") == uninterrupted
    assert "No checkpoint found; starting from step 0." in (tmp_path / "run" / "train.log").read_text()


# Changes that are allowed or refused

CONSTANT = [*PLAIN, "schedule=constant"]


@pytest.fixture(scope="module")
def done_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_in_process(tmp_path_factory.mktemp("done") / "run", [*CONSTANT, "trainer.epochs=2"]).path


def test_resume_extends_run_with_constant_schedule(done_run: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(done_run, longer)
    resume_to_end(longer, "trainer.epochs=3")
    uninterrupted = train_in_process(tmp_path / "uninterrupted", [*CONSTANT, "trainer.epochs=3"], figures=True).path
    assert (longer / "weights.pt").read_bytes() == (uninterrupted / "weights.pt").read_bytes()
    assert json.loads((longer / "summary.json").read_text())["test_loss"] == pytest.approx(
        json.loads((uninterrupted / "summary.json").read_text())["test_loss"], abs=0
    )
    run = read_run(longer)
    assert run.config["trainer"]["epochs"] == 3
    assert run.overrides[-1] == "trainer.epochs=3"
    assert run.identity == read_run(uninterrupted).identity
    assert [row.step for row in read_records(longer / "metrics.jsonl") if "accuracy/test" in row.values] == [12]


REFUSED = {
    "regularization.dropout=0.3": "regularization.dropout: 0.5 -> 0.3",
    "init=xavier": "init=xavier: this run was made with init._target_=train.parts.init.kaiming",
    "seed=4": "seed: 0 -> 4",
    "trainer.device=auto": "trainer.device: cpu -> auto",
    "trainer.epochs=1": "4 steps are fewer than the 8 that this run has done",
    "data.workers=0": "this run is done",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refuse_changes_shows_difference(done_run: Path, override: str) -> None:
    before = {path: path.read_bytes() for path in done_run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=re.escape(REFUSED[override])):
        resume_in_process(done_run, [override])
    assert {path: path.read_bytes() for path in done_run.rglob("*") if path.is_file()} == before, "the folder is unchanged"


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "step"])
def test_refuse_new_length_rejects_schedule_with_other_past(name: str) -> None:
    rate = {"one_cycle": schedule.one_cycle(), "cosine": schedule.cosine(), "step": schedule.step()}[name]
    with pytest.raises(UsageError, match=f"schedule {name} changes steps already done: at step"):
        refuse_new_length(rate, name, 8, 12, 8)
    with pytest.raises(UsageError, match="schedule constant changes steps already done"):
        refuse_new_length(schedule.constant(warmup=0.5), "constant", 8, 12, 8)
    refuse_new_length(schedule.constant(), "constant", 8, 12, 8)
    refuse_new_length(schedule.step(), "step", 8, 12, 4)
