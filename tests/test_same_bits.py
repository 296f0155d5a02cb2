"""scripts/same_bits.py: what counts as the same bits, on small files, and the command as a whole on one case."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.catalogue import Case, cases, choices
from scripts.same_bits import Comparison, compare_case, compare_folders, conclusion, difference
from train import cli
from train.store.identity import VERSION
from train.store.run import read_run

STORED = Path(__file__).parent / "stored"
STORED_RUN = STORED / "run"
SCRIPT = Path(__file__).parents[1] / "scripts" / "same_bits.py"

WEIGHTS = {"head.weight": torch.tensor([[0.5, float("nan")], [1.0, -2.0]]), "steps": torch.tensor(3)}
RECORDS = [{"step": 0, "time_s": 0.1, "values": {"loss/train": 0.7}}, {"step": 1, "time_s": 0.2, "values": {"loss/train": "NaN"}}]
SUMMARY = {"status": "done", "time_s": 1.5, "test_accuracy": 0.5, "initial_verdict": {"kind": "healthy", "sentence": "healthy"}}
TABLE = "arm,identity,time_s,test_accuracy\na,0123,1.5,0.5\nb,4567,1.6,0.25\n"


def write(folder: Path) -> Path:
    """A folder of results, each kind of file once."""
    run = folder / "run"
    run.mkdir(parents=True)
    torch.save(WEIGHTS, run / "weights.pt")
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "results.csv").write_text(TABLE)
    return folder


def compare_after(tmp_path: Path, change: Callable[[Path], object] = lambda _: None) -> Comparison:
    """Two folders of the same results, the second of which is changed afterwards."""
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    change(second)
    return compare_folders("case", first, second)


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    """A change of the text of one file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def test_compare_folders_finds_equal_results_equal(tmp_path: Path) -> None:
    found = compare_after(tmp_path)
    assert not found.differences, "the NaN in them equals itself"
    assert found.counts == {"weight tensors": 2, "records": 2, "summaries": 1, "tables": 1}


def test_compare_folders_sees_one_flipped_bit_of_a_tensor(tmp_path: Path) -> None:
    def flip(folder: Path) -> None:
        weights = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
        weights["head.weight"].view(torch.int32)[1, 0] ^= 1
        torch.save(weights, folder / "run" / "weights.pt")

    (found,) = compare_after(tmp_path, flip).differences
    assert found == "run/weights.pt: head.weight: 1 of 4 values, first at 2: 1.0 | 1.0000001192092896"


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("run/metrics.jsonl", "0.7", "0.70001", "record 0 values.loss/train: 0.7 | 0.70001"),
        ("run/metrics.jsonl", '"step": 1', '"step": 2', "record 1 step: 1 | 2"),
        ("run/metrics.jsonl", '"loss/train"', '"loss"', "record 0 values.loss/train: 0.7 | missing"),
        ("run/summary.json", "0.5", "0.25", "test_accuracy: 0.5 | 0.25"),
        ("run/summary.json", '"kind": "healthy"', '"kind": "fades"', 'initial_verdict.kind: "healthy" | "fades"'),
        ("results.csv", "4567", "4568", "row 1 identity: 4567 | 4568"),
        ("results.csv", "identity", "id", "row 0 identity: 0123 | missing"),
        ("results.csv", "b,4567,1.6,0.25\n", "", "row 1 identity: 4567 | missing"),
    ],
)
def test_compare_folders_names_what_was_changed(name: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    found = compare_after(tmp_path, replaced(name, old, new)).differences
    assert found[0] == f"{name}: {expected}"


@pytest.mark.parametrize(("changed", "differences"), [({}, 0), ({"identity": "0123456789ab"}, 1)], ids=["same id", "other id"])
def test_compare_folders_compares_ids_of_one_version(changed: dict[str, Any], differences: int, tmp_path: Path) -> None:
    first, second = (shutil.copytree(STORED_RUN, tmp_path / name / "run") for name in ("first", "second"))
    run = read_run(first)
    assert run.identity != run.status["identity"], "the stored run is of version 1, and its id differs in version 2"
    present = {"identity": run.identity, "arm": run.arm, "identity_version": VERSION, **changed}
    (second / "status.json").write_text(json.dumps({**run.status, **present}))
    found = compare_folders("case", first.parent, second.parent).differences
    assert len(found) == differences
    assert all(text.startswith("run/status.json: identity:") for text in found)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run/metrics.jsonl", '"time_s": 0.1', '"time_s": 9'),
        ("run/summary.json", "1.5", "9"),
        ("run/summary.json", '"sentence": "healthy"', '"sentence": "good"'),
        ("results.csv", "1.5", "9"),
    ],
)
def test_compare_folders_ignores_what_is_left_out(name: str, old: str, new: str, tmp_path: Path) -> None:
    assert not compare_after(tmp_path, replaced(name, old, new)).differences


@pytest.mark.parametrize("name", ["run/weights.pt", "results.csv"])
def test_compare_folders_misses_a_file_at_either_side(name: str, tmp_path: Path) -> None:
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    (second / name).unlink()
    assert compare_folders("case", first, second).differences == [f"{name}: only at the first revision"]
    assert compare_folders("case", second, first).differences == [f"{name}: only at the second revision"]


def test_runs_of_a_sweep_are_compared_whatever_their_folders_are_called(tmp_path: Path) -> None:
    first, second = (shutil.copytree(STORED / "sweep", tmp_path / place / "sweep") for place in ("first", "second"))
    moved = {run.name: f"run_{place}" for place, run in enumerate(sorted(run for run in second.iterdir() if run.is_dir()))}
    for old, new in moved.items():
        (second / old).rename(second / new)
    table = second / "results.csv"
    if table.exists():
        text = table.read_text()
        for old, new in moved.items():
            text = text.replace(old, new)
        table.write_text(text)
    same = compare_folders("case", first.parent, second.parent)
    assert same.differences == []
    assert same.counts["summaries"] == 7
    changed = next(second.glob("*/summary.json"))
    changed.write_text(changed.read_text().replace('"steps": ', '"steps": 1'))
    (difference,) = compare_folders("case", first.parent, second.parent).differences
    assert "summary.json: steps: " in difference


def test_compare_folders_is_not_content_with_nothing(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    assert compare_folders("case", tmp_path / "first", tmp_path / "second").differences == ["it left nothing to compare"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (torch.tensor(0.0), torch.tensor(-0.0), "1 of 1 values, first at 0: 0.0 | -0.0"),
        (torch.zeros(2), torch.zeros(1, 2), "torch.float32 [2] | torch.float32 [1, 2]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "torch.float32 [2] | torch.float64 [2]"),
        (torch.zeros(2), None, "a tensor | missing"),
        (torch.zeros(0), torch.zeros(0), ""),
        (torch.ones(2, 3).t(), torch.ones(3, 2), ""),
        (torch.ones(4).as_strided((4, 1), (1, 64)), torch.ones(4, 1), ""),
        ("0.0", "-0.0", "0.0 | -0.0"),
    ],
)
def test_difference_is_of_bits(first: Any, second: Any, expected: str) -> None:
    assert difference(first, second) == expected


def ended(folder: Path, *codes: int | None, written: int = 1) -> Path:
    """A folder of results with what the driver says of its commands."""
    write(folder)
    outcome = [{"exit_code": code, "weights_written": written} for code in codes]
    (folder / "outcome.json").write_text(json.dumps(outcome))
    (folder / "log.txt").write_text("hello\nno copy here\n")
    return folder


@pytest.mark.parametrize(("first", "second"), [((0,), (1,)), ((1,), (1,)), ((0,), (None,)), ((0,), ()), ((2,), (2,))])
def test_compare_case_wants_the_right_exit_code_at_both(
    first: tuple[int | None, ...], second: tuple[int | None, ...], tmp_path: Path
) -> None:
    found = compare_case(Case("case", ()), ended(tmp_path / "first", *first), ended(tmp_path / "second", *second))
    assert len(found.differences) == 1
    assert "where 0 is right: no copy here" in found.differences[0]


def test_compare_case_that_may_be_refused_by_both_but_not_by_one(tmp_path: Path) -> None:
    case = Case("case", (), may_be_refused=True)
    refused, again, trained = (ended(tmp_path / str(place), code) for place, code in enumerate((2, 2, 0)))
    found = compare_case(case, refused, again)
    assert not found.differences
    assert found.not_compared == "both refuse it, exit code 2: no copy here"
    assert compare_case(case, refused, trained).differences
    assert not compare_case(case, trained, trained).not_compared


def test_compare_case_sees_what_was_trained_again(tmp_path: Path) -> None:
    first, second = ended(tmp_path / "first", 0, 0), ended(tmp_path / "second", 0, 0, written=2)
    expected = "files of weights that each command wrote: [1, 1] | [2, 2]"
    assert compare_case(Case("case", ()), first, second).differences == [expected]


def test_compare_case_of_a_run_that_another_revision_began(tmp_path: Path) -> None:
    """The second revision has run the last command alone."""
    assert not compare_case(Case("case", ()), ended(tmp_path / "first", 0, 0), ended(tmp_path / "second", 0)).differences


def test_conclusion_says_what_was_not_compared() -> None:
    same, new = Comparison("a"), Comparison("b", not_compared="new")
    same.counts["records"] = 1234
    text = conclusion([same, new])
    assert text.splitlines()[-1] == "same bits: 1 cases; 1,234 records"
    assert "not compared: b (new)" in text
    assert "left out: times (* time_s" in text
    assert conclusion([same, new, Comparison("c", ["x"])]).splitlines()[-1] == "DIFFERENT: 1 of 2 cases; 1,234 records"


def test_cases_have_every_choice_once(tmp_path: Path) -> None:
    names = [case.name for case in cases(cli.config_dir(), tmp_path)]
    assert len(names) == len(set(names))
    assert set(choices(cli.config_dir())) <= set(names)


def same_bits(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300, check=False)


in_checkout = pytest.mark.skipif(not (SCRIPT.parents[1] / ".git").exists(), reason="the revisions are git's")


@in_checkout
def test_command_refuses_a_revision_that_does_not_exist() -> None:
    refused = same_bits("HEAD", "no-such-revision")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"same_bits: 'no-such-revision' is no revision of {SCRIPT.parents[1]}."]


@in_checkout
@pytest.mark.long
def test_command_finds_a_revision_equal_to_itself(tmp_path: Path) -> None:
    done = same_bits("HEAD", "HEAD", "--only", "observe=off", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    first, second = (line for line in lines if line.startswith("code "))
    assert first == second
    assert first.split()[:2] == ["code", "HEAD"]
    assert last.startswith("same bits: 1 cases; ")
    assert "1 summaries" in last
    weights = [tmp_path / "kept" / side / "cases" / "observe=off" / "run" / "weights.pt" for side in ("first", "second")]
    assert all(path.stat().st_size for path in weights)
