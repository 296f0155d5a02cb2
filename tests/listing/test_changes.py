"""What is said of runs and sweeps, and what is removed of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.listing.conftest import TrainRuns
from tests.report.folders import write_run
from train.report.collect import collect
from train.store.inside import Folder
from train.store.lock import Lock
from train.store.run import read_run


def test_notes_and_tags_are_kept_shown_and_found(outputs: Path, train_runs: TrainRuns) -> None:
    before = sorted(path.read_bytes() for path in (outputs / "single").iterdir())
    assert train_runs("note", "outputs/single", "learns\ntoo  slowly").out == "outputs/single: learns too slowly\n"
    assert train_runs("tag", "single", "#slow", "again", "slow").out == "outputs/single: #slow #again; learns too slowly\n"
    assert train_runs().rows[0].endswith("#slow #again learns too slowly")
    assert [row.split()[-6] for row in train_runs("--where", "tag=slow").rows] == ["single"]
    assert train_runs("--where", "tag=slow", "tag=other").rows == []
    assert json.loads(train_runs("--json", "--where", "tag=again").out)[0]["tags"] == ["slow", "again"]
    assert train_runs("untag", "single", "slow").code == train_runs("untag", "single", "again").code == 0
    assert train_runs("note", "single", "").out == "outputs/single: nothing is said of it\n"
    assert sorted(path.read_bytes() for path in (outputs / "single").iterdir()) == before, "nothing is left of it"
    assert train_runs("tag", "outputs/sweep", "good").code == 0
    assert train_runs().rows[-1].endswith("sweep/  #good")


def test_archived_run_is_left_out_of_folders_above_it(outputs: Path, train_runs: TrainRuns) -> None:
    assert train_runs("archive", "single", "outputs/sweep").code == 0
    result = train_runs()
    assert len(result.rows) == 1
    assert "2 archived: listed with --archived" in result.err
    assert len(train_runs("--archived").rows) == 3
    assert "(archived)" in train_runs("--archived").out
    collection = collect([outputs])
    assert [run.folder.name for run in collection.runs] == ["broken"]
    assert collection.missing == ()
    assert [item.reason.startswith("archived") for item in collection.unreadable] == [True, True]
    assert len(train_runs("outputs/sweep").rows) == len(collect([outputs / "sweep"]).runs) == 4, "named itself, it is there"
    assert len(collect([outputs / "single"]).runs) == 1
    assert train_runs("unarchive", "single", "sweep").code == 0
    assert len(train_runs().rows) == 3
    assert not list(outputs.rglob("notes.json"))


REFUSED = {
    "no such run": (["note", "nowhere", "x"], "nowhere"),
    "several": (["tag", "norm=", "x"], "Name one of them"),
    "no run": (["note", "outputs", "x"], "neither a run nor a sweep"),
    "two words": (["tag", "single", "a b"], "one word"),
    "a comma": (["tag", "single", "a,b"], "one word"),
    "an escape": (["tag", "single", "a\x1b"], "one word"),
    "no tag": (["untag", "single", "x"], "no such tag"),
    "a long note": (["note", "single", "x" * 3000], "3,000"),
    "a run of a sweep": (["archive", "norm=batch,seed=0"], "Archive the sweep: outputs/sweep"),
    "nothing to prune": (["prune", "outputs"], "--checkpoints"),
    "no run to prune": (["prune", "outputs", "--checkpoints", "--where", "norm=x"], "norm is"),
    "no folder to prune": (["prune", "nowhere", "--checkpoints"], "nowhere"),
    "no text": (["note", "single"], "TEXT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_change_is_one_message_and_changes_nothing(case: str, outputs: Path, train_runs: TrainRuns) -> None:
    arguments, text = REFUSED[case]
    result = train_runs(*arguments)
    assert (result.code, result.out) == (2, "")
    assert text in result.err
    assert "\x1b" not in result.err
    assert not list(outputs.rglob("notes.json"))


def test_notes_that_cannot_be_kept_are_one_message(outputs: Path, train_runs: TrainRuns) -> None:
    notes = outputs / "single" / "notes.json"
    notes.symlink_to(outputs / "elsewhere")
    assert train_runs("tag", "single", "x").code == 2
    assert not (outputs / "elsewhere").exists()
    notes.unlink()
    notes.write_text("[]")
    result = train_runs("tag", "single", "x")
    assert (result.code, notes.read_text()) == (2, "[]")
    assert "Repair or remove that file" in result.err


@pytest.fixture
def full(outputs: Path) -> Path:
    """The same folder, in which each run has two checkpoints and a figure."""
    for status in [*outputs.rglob("status.json")]:
        for name in ("checkpoints/step-1-a.pt", "checkpoints/best-1-b.pt", "figures/signal.png"):
            (status.parent / name).parent.mkdir(exist_ok=True)
            (status.parent / name).write_bytes(b"x" * (1 << 20))
        (status.parent / "weights.pt").write_bytes(b"x")
    return outputs


def files(folder: Path, *names: str) -> list[str]:
    return sorted(path.parent.parent.name for name in names for path in folder.rglob(name) if path.parent.name == "checkpoints")


def test_prune_says_what_it_would_free_and_removes_nothing_unasked(full: Path, train_runs: TrainRuns) -> None:
    before = sorted(full.rglob("*"))
    result = train_runs("prune", "outputs", "--checkpoints")
    assert result.code == 2
    assert "To remove: 10 files of checkpoints, 10 MiB of 5 runs." in result.out
    assert "Kept, failed: it could be resumed: 1 run, as outputs/broken" in result.out
    assert "--yes" in result.err
    assert sorted(full.rglob("*")) == before


def test_prune_removes_what_was_named_of_runs_that_ended(full: Path, train_runs: TrainRuns) -> None:
    runs = [read_run(path.parent) for path in full.rglob("status.json")]
    result = train_runs("prune", "outputs", "--checkpoints", "--figures", "--where", "norm!=layer", "--yes")
    assert result.code == 0
    assert "8 files of checkpoints and 4 files of figures, 12 MiB of 4 runs" in result.out
    assert result.out.endswith("Removed: 12 MiB.\n")
    assert files(full, "*.pt") == ["broken", "broken", "single", "single"]
    assert len([*full.rglob("weights.pt")]) == 6
    assert [read_run(run.folder) for run in runs] == runs
    assert "nothing" in train_runs("prune", "outputs/sweep", "--checkpoints", "--yes").out


@pytest.mark.parametrize("answer", ["y\n", "YES\n", "n\n", "\n", ""])
def test_answer_decides(answer: str, full: Path, train_runs: TrainRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    with open(controller, "wb", buffering=0) as typed, open(terminal) as stdin:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", stdin)
        typed.write(answer.encode() or b"\x04")
        result = train_runs("prune", "outputs/single", "--checkpoints")
    assert result.code == 0
    assert ("Removed" in result.out) is answer.lower().startswith("y")
    assert (files(full / "single", "*.pt") == []) is answer.lower().startswith("y")


def test_prune_touches_no_run_that_is_used_and_follows_no_link(full: Path, tmp_path: Path, train_runs: TrainRuns) -> None:
    """Locked, marked as running elsewhere, a link as the subfolder, links and hard links as files, other files, folders."""
    elsewhere = Path(shutil.copytree(full / "single" / "checkpoints", tmp_path / "elsewhere"))
    running = write_run(full / "now", ["norm=batch"], 0.6, "running", records=2, status={"host": "elsewhere"})
    shutil.copytree(elsewhere, running / "checkpoints")
    (full / "linked").mkdir()
    linked = write_run(full / "linked" / "run", ["seed=7"], 0.6, records=2)
    (linked / "checkpoints").symlink_to(elsewhere)
    strange = full / "single" / "checkpoints"
    (strange / "link.pt").symlink_to(elsewhere / "step-1-a.pt")
    (strange / "mine.txt").write_text("x")
    (strange / "folder.pt").mkdir()
    os.link(elsewhere / "step-1-a.pt", strange / "hard.pt")
    (full / "away").symlink_to(tmp_path)
    lock = Lock(next((full / "sweep").glob("norm=batch,seed=0*")))
    assert lock.acquire() is None
    result = train_runs("prune", "outputs", "--checkpoints", "--yes")
    lock.release()
    assert result.code == 0, result.err
    assert "9 files of checkpoints, 8 MiB of 4 runs" in result.out, "a hard link frees nothing"
    assert "Kept, running: 2 runs" in result.out
    assert "is a link" in result.out
    assert [path.name for path in sorted(strange.iterdir())] == ["folder.pt", "link.pt", "mine.txt"]
    assert len([*elsewhere.iterdir()]) == 2
    assert len([*(running / "checkpoints").iterdir()]) == len([*(lock.folder / "checkpoints").iterdir()]) == 2


def test_run_that_starts_after_the_question_keeps_its_files(
    full: Path, train_runs: TrainRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(full / "single")
    listed = Folder.entries

    def entries(folder: Folder) -> dict[str, os.stat_result]:
        found = listed(folder)
        assert lock.acquire() is None
        return found

    monkeypatch.setattr(Folder, "entries", entries)
    result = train_runs("prune", "outputs/single", "--checkpoints", "--yes")
    lock.release()
    assert "Kept, running: outputs/single" in result.out
    assert len([*(full / "single" / "checkpoints").iterdir()]) == 2
