"""A run is a result only if its records are all there: what is cut off, torn or left out is found, whatever the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import SMALL, resume_in_process, train_in_process
from tests.report.folders import write_run
from tests.store.test_stored_folders import STORED
from train.errors import UsageError
from train.store.run import find_runs, read_run


def cut(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file = folder / "metrics.jsonl"
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def without(step: int) -> Callable[[list[bytes]], list[bytes]]:
    """Return a change that removes the training loss of a step."""
    mark = f'{{"step":{step},'.encode()
    return lambda lines: [line for line in lines if not (line.startswith(mark) and b"loss/train" in line)]


CUTS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "nothing": (lambda lines: lines, ""),
    "everything": (lambda _: [], "metrics.jsonl is empty"),
    "half": (lambda lines: lines[: len(lines) // 2], "the records in metrics.jsonl end at step 20 of 50"),
    "all but the first line": (lambda lines: lines[:1], "the records in metrics.jsonl end at step 0 of 50"),
    "the last step": (lambda lines: lines[:-4], "the records in metrics.jsonl end at step 40 of 50"),
    "the last line": (lambda lines: lines[:-1], "metrics.jsonl ends without the record of the test split"),
    "the last byte": (lambda lines: [*lines[:-1], lines[-1][:-1]], "the last line of metrics.jsonl is torn"),
    "half of a line": (lambda lines: [*lines[:9], lines[9][:20]], "the last line of metrics.jsonl is torn"),
    "a step in the middle": (without(20), "metrics.jsonl has no record of step 20, which trainer.record_every=10 demands"),
    "the first step": (without(10), "metrics.jsonl has no record of step 10, which trainer.record_every=10 demands"),
    "the loss of the last step": (without(50), "metrics.jsonl has no record of step 50, which trainer.record_every=10 demands"),
    "a block of zeros": (
        lambda lines: [line if b'"step":30,' not in line else bytes(len(line) - 1) + b"\n" for line in lines],
        "metrics.jsonl has no record of step 30, which trainer.record_every=10 demands",
    ),
    "the end of a line": (
        lambda lines: [b"x\n" if i == len(lines) - 1 else line for i, line in enumerate(lines)],
        "metrics.jsonl ends without the record of the test split",
    ),
}


@pytest.mark.parametrize("kind", CUTS)
def test_done_run_without_a_part_of_its_records_is_incomplete(kind: str, tmp_path: Path) -> None:
    change, reason = CUTS[kind]
    folder = write_run(tmp_path / "run", ["trainer.record_every=10"], 0.5)
    cut(folder, change)
    run = read_run(folder)
    assert (run.state, run.reason) == (("incomplete", reason) if reason else ("done", ""))
    assert bool(run.summary) == (not reason), "nothing of an incomplete run is a result"


def test_done_run_without_a_file_of_records_is_incomplete(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], 0.5)
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder).reason == "metrics.jsonl is missing"


@pytest.mark.parametrize("state", ["failed", "interrupted", "diverged"])
def test_run_that_ended_early_has_no_more_records(state: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ["trainer.record_every=10"], None, state, records=3)
    assert read_run(folder).state == state
    cut(folder, lambda lines: lines[:-3])
    assert read_run(folder).state == ("incomplete" if state == "diverged" else state)


def test_numbers_of_any_size_are_read_at_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ["trainer.record_every=10"], 0.5, summary={"steps": 10**18})
    assert read_run(folder).state == "incomplete"
    folder = write_run(tmp_path / "longer", ["trainer.record_every=10"], 0.5, summary={"steps": 10**400})
    with pytest.raises(UsageError, match=r"summary\.json holds a number of 1,329 bits"):
        read_run(folder)


def test_records_of_earlier_versions_are_complete() -> None:
    runs = [read_run(folder) for folder in find_runs([STORED / "sweep"])]
    assert [run.state for run in runs] == ["done"] * 7


REAL = [*SMALL, "trainer.device=cpu", "schedule=constant"]
RARE: dict[str, tuple[list[str], str]] = {
    "no step": (["trainer.epochs=0", "trainer.max_steps=null"], "done"),
    "one step": (["trainer.max_steps=1"], "done"),
    "fewer steps than record_every": (["trainer.max_steps=3", "trainer.record_every=1000"], "done"),
    "no multiple of record_every": (["trainer.epochs=3", "trainer.max_steps=7", "trainer.record_every=3"], "done"),
    "no validation split": (["data.val_fraction=0", "trainer.max_steps=4"], "done"),
    "rare evaluations": (["trainer.epochs=4", "trainer.max_steps=null", "trainer.evaluate_every=3"], "done"),
    "observed": (["observe=basic", "observe.every=1", "observe.probe_size=5", "trainer.max_steps=4"], "done"),
    "diverged": (["optimizer.lr=1e30", "trainer.max_steps=9", "trainer.epochs=3", "trainer.record_every=4"], "diverged"),
    "diverged, observed": (["observe=basic", "optimizer.lr=1e30", "trainer.max_steps=9", "trainer.epochs=3"], "diverged"),
}


@pytest.mark.parametrize("kind", RARE)
def test_run_that_records_rarely_is_complete(kind: str, tmp_path: Path) -> None:
    overrides, state = RARE[kind]
    folder = train_in_process(tmp_path / "run", [*REAL, *overrides]).path
    run = read_run(folder)
    assert (run.state, run.reason if state == "done" else "") == (state, "")


def test_extended_run_is_complete(tmp_path: Path) -> None:
    folder = train_in_process(
        tmp_path / "run", [*REAL, "trainer.epochs=1", "trainer.max_steps=3", "trainer.record_every=2", "checkpoint.final=true"]
    ).path
    assert resume_in_process(folder, ["trainer.max_steps=4"])[1] == "done"
    assert read_run(folder).state == "done"
