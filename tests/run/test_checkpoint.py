"""Checkpoints: atomic, verified (damaged, of another run, of a newer format), never executed, and written when due."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.harness import SMALL, compose_config, resume_in_process, run_content, train_in_process
from tests.run import saboteur
from train.config import CheckpointSettings
from train.errors import UsageError
from train.run.checkpoint import (
    FORMAT,
    CheckpointSaver,
    checksum,
    encode_checkpoint,
    find_checkpoint,
    list_checkpoints,
    newest_valid,
    remove_after,
    write_checkpoint,
)
from train.run.resume import can_resume, resume_identity
from train.sinks.broadcast import BroadcastSink
from train.store.files import write_json
from train.store.metrics import read_records
from train.store.run import read_run

RUN = [
    *SMALL,
    "trainer.epochs=3",
    "trainer.max_steps=null",
    "trainer.device=cpu",
    "schedule=constant",
    "checkpoint.every_steps=4",
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a complete run and an interrupted one, which a signal ended at step 10 with checkpoints of steps 8 and 10."""
    parent = tmp_path_factory.mktemp("runs")
    train_in_process(parent / "uninterrupted", RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SABOTAGE", "train:10:SIGTERM")
        saboteur.reset()
        train_in_process(parent / "interrupted", RUN)
    saboteur.reset()
    return parent


@pytest.fixture
def interrupted(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "interrupted", tmp_path / "run")
    return tmp_path / "run"


EXPERIMENT = resume_identity(compose_config(RUN))


def test_saver_keeps_two_checkpoints_and_best_then_one(runs: Path, tmp_path: Path) -> None:
    assert [file.step for file in list_checkpoints(runs / "interrupted")] == [10, 8]
    assert len(list_checkpoints(runs / "uninterrupted")) == len(list_checkpoints(runs / "uninterrupted", "best")) == 1
    best = torch.load(list_checkpoints(runs / "uninterrupted", "best")[0].path, weights_only=True)
    assert best.keys() == torch.load(runs / "uninterrupted" / "weights.pt", weights_only=True).keys()
    scores = {
        r.step: r.values["accuracy/val"]
        for r in read_records(runs / "uninterrupted" / "metrics.jsonl")
        if "accuracy/val" in r.values
    }
    assert scores[list_checkpoints(runs / "uninterrupted", "best")[0].step] == max(scores.values())
    none = train_in_process(tmp_path / "none", [*RUN, "checkpoint.final=false", "checkpoint.best=false"]).path
    assert list_checkpoints(none) == list_checkpoints(none, "best") == []


def flip_bit(content: bytes) -> bytes:
    index = len(content) // 2
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip_bit,
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "longer": lambda content: content + b"\0",
    "another file": lambda _: b"PK\x03\x04 something else",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_find_checkpoint_skips_damaged_file(interrupted: Path, damage: str) -> None:
    newest, previous = list_checkpoints(interrupted)
    newest.path.write_bytes(DAMAGE[damage](newest.path.read_bytes()))
    assert newest_valid(interrupted) == previous
    found = find_checkpoint(interrupted, [EXPERIMENT])
    assert found.step == previous.step
    (note,) = found.notes
    assert newest.path.name in note
    assert list_checkpoints(interrupted) == [previous], "the damaged file is renamed"


def test_checkpoint_larger_than_the_memory_is_neither_read_nor_given_up(interrupted: Path) -> None:
    """One that fits into the memory, but not twice: reading it would end this process, or others. It may fit another day."""
    newest, _ = list_checkpoints(interrupted)
    os.truncate(newest.path, 3 * psutil.virtual_memory().total // 4)
    for look in (lambda: resume_in_process(interrupted), lambda: newest_valid(interrupted)):
        with pytest.raises(UsageError, match=rf"{newest.path.name}: it has [0-9.]+ GiB, and reading it takes twice its size"):
            look()
    assert newest.path.exists()


def test_resume_from_checkpoint_before_damaged_one_is_bit_exact(interrupted: Path, runs: Path) -> None:
    newest = list_checkpoints(interrupted)[0].path
    newest.write_bytes(flip_bit(newest.read_bytes()))
    assert resume_in_process(interrupted)[1] == "done"
    assert run_content(interrupted) == run_content(runs / "uninterrupted")
    assert f"{newest.name} is damaged" in (interrupted / "train.log").read_text()
    assert "Resuming at step 8." in (interrupted / "train.log").read_text()


def test_resume_without_valid_checkpoint_starts_at_step_zero(interrupted: Path, runs: Path) -> None:
    for file in list_checkpoints(interrupted):
        file.path.write_bytes(b"")
    assert not can_resume(interrupted)
    assert resume_in_process(interrupted)[1] == "done"
    assert run_content(interrupted) == run_content(runs / "uninterrupted")
    assert (interrupted / "train.log").read_text().count("is damaged") == 2


def replace_newest(folder: Path, content: bytes) -> None:
    newest = list_checkpoints(folder)[0]
    newest.path.unlink()
    write_checkpoint(folder, "step", newest.step, content, keep=2)


class TouchFile:
    """An object whose unpickling touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_find_checkpoint_never_executes_code(interrupted: Path, tmp_path: Path) -> None:
    for content in (
        pickle.dumps(TouchFile(tmp_path / "touched"), protocol=2),
        encode_checkpoint({"format": 1, "experiment": TouchFile(tmp_path / "touched")}),
    ):
        replace_newest(interrupted, content)
        with pytest.raises(UsageError, match="not a checkpoint of a run"):
            find_checkpoint(interrupted, [EXPERIMENT])
    assert not (tmp_path / "touched").exists()


def test_resume_refuses_other_format_and_other_run(interrupted: Path, runs: Path) -> None:
    content = torch.load(list_checkpoints(interrupted)[0].path, weights_only=True)
    replace_newest(interrupted, encode_checkpoint(content | {"format": FORMAT + 1}))
    with pytest.raises(UsageError, match=rf"has format {FORMAT + 1}; this version of train reads format {FORMAT}"):
        resume_in_process(interrupted)
    replace_newest(interrupted, encode_checkpoint(content | {"experiment": "of another"}))
    with pytest.raises(UsageError, match="checkpoint of a run with another configuration"):
        resume_in_process(interrupted)
    assert read_run(interrupted).state == "interrupted", "the folder is unchanged"
    assert runs.exists()


def test_resume_refuses_changed_data(interrupted: Path) -> None:
    content = torch.load(list_checkpoints(interrupted)[0].path, weights_only=True)
    replace_newest(interrupted, encode_checkpoint(content | {"first_batch": "0" * 64}))
    with pytest.raises(Exception, match="The data changed since this run started"):
        resume_in_process(interrupted)


def test_can_resume_depends_on_state(interrupted: Path) -> None:
    assert can_resume(interrupted)
    for state, resumable in (("done", False), ("diverged", False), ("failed", True), ("interrupted", True)):
        write_json(interrupted / "status.json", dict(read_run(interrupted).status) | {"status": state})
        assert can_resume(interrupted) == resumable
    assert not can_resume(interrupted / "nothing")


# When checkpoints are written


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_saver_due_by_steps_and_by_minutes(tmp_path: Path) -> None:
    clock = Clock()
    saver = CheckpointSaver(tmp_path, CheckpointSettings(every_minutes=5, every_steps=7), "id", "batch", BroadcastSink(), clock)
    assert [done for done in range(1, 22) if saver.due(done)] == [7, 14, 21]
    clock.now = 300.0
    assert saver.due(1)
    never = CheckpointSaver(tmp_path, CheckpointSettings(every_minutes=None), "id", "batch", BroadcastSink(), clock)
    clock.now = 1e9
    assert not never.due(1)


def test_checkpoint_names_hold_step_and_checksum(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        write_checkpoint(tmp_path, "step", step, str(step).encode(), keep=5)
    write_checkpoint(tmp_path, "best", 20, b"best", keep=1)
    folder = tmp_path / "checkpoints"
    (folder / "other.pt").write_bytes(b"other")
    (folder / ".step-000000009-0.pt.77").write_bytes(b"partial")
    assert [file.step for file in list_checkpoints(tmp_path)] == [20, 3, 1]
    assert list_checkpoints(tmp_path)[0].path.name == f"step-000000020-{checksum(b'20')}.pt"
    remove_after(tmp_path, 3)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["other.pt", f"step-000000003-{checksum(b'3')}.pt", f"step-000000001-{checksum(b'1')}.pt"]
    )
