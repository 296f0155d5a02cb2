"""Checkpoints: whole or not there, known when damaged, foreign or newer, never code, and cheap."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness import SMALL, compose_config, outcome, resume_here, run_here
from tests.run import saboteur
from train.config import CheckpointSettings
from train.errors import UsageError
from train.run.checkpoint import FORMAT, CheckpointSaver, encode_checkpoint, find_checkpoint
from train.run.checkpoint_files import checksum, list_checkpoints, newest_valid, remove_after, write_checkpoint
from train.run.folder import write_json
from train.run.resume import can_resume, resume_identity
from train.sinks.broadcast import BroadcastSink
from train.sinks.jsonl import read_records
from train.store.run import read_run

RUN = [
    *SMALL,
    "trainer.epochs=3",
    "trainer.max_steps=null",
    "trainer.device=cpu",
    "observe=off",
    "schedule=constant",
    "checkpoint.every_steps=4",
    "norm=none",
    "norm._target_=tests.run.saboteur.norm",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, and half a one that a signal ended at step 10; it has the checkpoints of steps 8 and 10."""
    parent = tmp_path_factory.mktemp("made")
    run_here(parent / "whole", RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SABOTAGE", "train:10:SIGTERM")
        saboteur.reset()
        run_here(parent / "half", RUN)
    saboteur.reset()
    return parent


@pytest.fixture
def half(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "half", tmp_path / "run")
    return tmp_path / "run"


EXPERIMENT = resume_identity(compose_config(RUN))


def test_the_last_two_and_the_best_are_kept_and_only_one_after_the_end(made: Path, tmp_path: Path) -> None:
    assert [file.step for file in list_checkpoints(made / "half")] == [10, 8]
    assert len(list_checkpoints(made / "whole")) == len(list_checkpoints(made / "whole", "best")) == 1
    best = torch.load(list_checkpoints(made / "whole", "best")[0].path, weights_only=True)
    assert best.keys() == torch.load(made / "whole" / "weights.pt", weights_only=True).keys()
    scores = {
        r.step: r.values["accuracy/val"] for r in read_records(made / "whole" / "metrics.jsonl") if "accuracy/val" in r.values
    }
    assert scores[list_checkpoints(made / "whole", "best")[0].step] == max(scores.values())
    none = run_here(tmp_path / "none", [*RUN, "checkpoint.final=false", "checkpoint.best=false"]).path
    assert list_checkpoints(none) == list_checkpoints(none, "best") == []


def flip(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip,
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "longer": lambda content: content + b"\0",
    "another file": lambda _: b"PK\x03\x04 something else",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(half: Path, damage: str) -> None:
    newest, before = list_checkpoints(half)
    newest.path.write_bytes(DAMAGES[damage](newest.path.read_bytes()))
    assert newest_valid(half) == before
    found = find_checkpoint(half, [EXPERIMENT])
    assert found.step == before.step
    (note,) = found.notes
    assert newest.path.name in note
    assert list_checkpoints(half) == [before], "it is set aside"


def test_a_run_goes_on_to_the_bit_from_the_checkpoint_before_a_damaged_one(half: Path, made: Path) -> None:
    newest = list_checkpoints(half)[0].path
    newest.write_bytes(flip(newest.read_bytes()))
    assert resume_here(half)[1] == "done"
    assert outcome(half) == outcome(made / "whole")
    assert f"{newest.name} is damaged" in (half / "train.log").read_text()
    assert "goes on at step 8" in (half / "train.log").read_text()


def test_without_a_whole_checkpoint_a_run_begins_again(half: Path, made: Path) -> None:
    for file in list_checkpoints(half):
        file.path.write_bytes(b"")
    assert not can_resume(half)
    assert resume_here(half)[1] == "done"
    assert outcome(half) == outcome(made / "whole")
    assert (half / "train.log").read_text().count("is damaged") == 2


def replace_newest(folder: Path, content: bytes) -> None:
    newest = list_checkpoints(folder)[0]
    newest.path.unlink()
    write_checkpoint(folder, "step", newest.step, content, keep=2)


class Harm:
    """What an unpickler would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_is_never_code(half: Path, tmp_path: Path) -> None:
    for content in (
        pickle.dumps(Harm(tmp_path / "harm"), protocol=2),
        encode_checkpoint({"format": 1, "experiment": Harm(tmp_path / "harm")}),
    ):
        replace_newest(half, content)
        with pytest.raises(UsageError, match="this is not a checkpoint of a run"):
            find_checkpoint(half, [EXPERIMENT])
    assert not (tmp_path / "harm").exists()


def test_a_foreign_and_a_future_checkpoint_are_told_apart(half: Path, made: Path) -> None:
    content = torch.load(list_checkpoints(half)[0].path, weights_only=True)
    replace_newest(half, encode_checkpoint(content | {"format": FORMAT + 1}))
    with pytest.raises(UsageError, match=rf"has format {FORMAT + 1}; this version of train reads format {FORMAT}"):
        resume_here(half)
    replace_newest(half, encode_checkpoint(content | {"experiment": "of another"}))
    with pytest.raises(UsageError, match="of a run with another configuration"):
        resume_here(half)
    assert read_run(half).state == "interrupted", "it is left as it was"
    assert made.exists()


def test_other_data_are_refused(half: Path) -> None:
    content = torch.load(list_checkpoints(half)[0].path, weights_only=True)
    replace_newest(half, encode_checkpoint(content | {"first_batch": "0" * 64}))
    with pytest.raises(Exception, match="The data are not those that this run began with"):
        resume_here(half)


def test_what_can_go_on_can_be_told_without_torch(half: Path) -> None:
    assert can_resume(half)
    for state, going in (("done", False), ("diverged", False), ("failed", True), ("interrupted", True)):
        write_json(half / "status.json", dict(read_run(half).status) | {"status": state})
        assert can_resume(half) == going
    assert not can_resume(half / "nothing")


# When they are written


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_checkpoints_are_due_by_steps_and_by_minutes(tmp_path: Path) -> None:
    clock = Clock()
    saver = CheckpointSaver(tmp_path, CheckpointSettings(every_minutes=5, every_steps=7), "id", "batch", BroadcastSink(), clock)
    assert [done for done in range(1, 22) if saver.due(done)] == [7, 14, 21]
    clock.now = 300.0
    assert saver.due(1)
    never = CheckpointSaver(tmp_path, CheckpointSettings(every_minutes=None), "id", "batch", BroadcastSink(), clock)
    clock.now = 1e9
    assert not never.due(1)


def test_names_hold_step_and_checksum_and_strangers_are_left_alone(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        write_checkpoint(tmp_path, "step", step, str(step).encode(), keep=5)
    write_checkpoint(tmp_path, "best", 20, b"best", keep=1)
    folder = tmp_path / "checkpoints"
    (folder / "mine.pt").write_bytes(b"mine")
    (folder / ".step-000000009-0.pt.77").write_bytes(b"half a checkpoint")
    assert [file.step for file in list_checkpoints(tmp_path)] == [20, 3, 1]
    assert list_checkpoints(tmp_path)[0].path.name == f"step-000000020-{checksum(b'20')}.pt"
    remove_after(tmp_path, 3)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["mine.pt", f"step-000000003-{checksum(b'3')}.pt", f"step-000000001-{checksum(b'1')}.pt"]
    )
