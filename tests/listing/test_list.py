"""The list of runs and sweeps."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from pathlib import Path

import pytest

from tests.listing.conftest import TrainRuns
from tests.report.folders import write_run
from tests.report.hostile import write_hostile_sweep
from tests.report.test_hostile import invisible
from train.listing.layout import table_text


def test_sweep_is_one_row_and_runs_of_their_own_are_rows(outputs: Path, train_runs: TrainRuns) -> None:
    result = train_runs()
    assert (result.code, result.err) == (0, "")
    single, broken, sweep = result.rows
    assert "done" in single
    assert "75.00 %" in single
    assert "2,000 images" in single
    assert "norm=layer optimizer.lr=0.1" in single
    assert single.endswith("single")
    assert "trainer.epochs=1" not in result.out, "what all of them have tells none apart"
    assert broken.startswith("failed")
    assert "4 done, 1 missing" in sweep
    assert "55.00\N{EN DASH}85.00 %" in sweep
    assert "2 runs" in sweep
    assert "2 arms: norm=batch,none" in sweep
    assert sweep.endswith("sweep/")
    assert train_runs(outputs).out == result.out


@pytest.mark.parametrize("arguments", [["--runs"], ["--where", "seed>=0"], ["--sort", "seed"], ["--show", "norm"]], ids=" ".join)
@pytest.mark.usefixtures("outputs")
def test_sweep_is_opened(arguments: list[str], train_runs: TrainRuns) -> None:
    assert len(train_runs(*arguments).rows) == 6
    assert len(train_runs("outputs/sweep").rows) == 4


@pytest.mark.usefixtures("outputs")
def test_runs_are_sorted_and_filtered(train_runs: TrainRuns) -> None:
    best = train_runs("--where", "status=done", "--sort", "accuracy/test", "--reverse", "--limit", "2", "--show", "norm,lr").rows
    assert [("90.00 %" in best[0]), ("80.00 %" in best[1])] == [True, True]
    worst = train_runs("--sort", "accuracy/test").rows
    assert "50.00 %" in worst[0]
    assert worst[-1].startswith("failed"), "without a value"
    reversed_ = train_runs("--sort", "accuracy/test", "--reverse").rows
    assert reversed_[-1].startswith("failed")
    by_text = [row.split()[-1] for row in train_runs("--sort", "norm", "--where", "sweep!=sweep").rows]
    assert by_text == ["broken", "single"]


@pytest.mark.usefixtures("outputs")
def test_groups_have_means_and_counts(train_runs: TrainRuns) -> None:
    head, columns, *rows = train_runs("--by", "norm").out.splitlines()
    assert "accuracy/test" in head
    assert columns.split() == ["norm", "runs", "done", "n", "mean", "sd", "min", "max"]
    batch, group, *_ = [row.split() for row in rows]
    assert batch == ["batch", "2", "2", "2", "85.00", "%", "7.07", "%", "80.00", "%", "90.00", "%"]
    assert group == ["group", "1", "0", "0"]
    assert "1.1 " not in train_runs("--by", "norm", "--metric", "loss/val").out


def test_copy_of_a_run_is_counted_once_in_a_group(outputs: Path, train_runs: TrainRuns) -> None:
    write_run(outputs / "copy", ["norm=layer", "optimizer.lr=0.1", "trainer.epochs=1"], 0.75, records=2, layers=1)
    result = train_runs("--by", "norm").out
    assert "1 of the 7 runs repeat another" in result
    assert ["layer", "1", "1", "1"] in [row.split()[:4] for row in result.splitlines()]


@pytest.mark.usefixtures("outputs")
def test_data_are_one_row_a_run_for_programs(train_runs: TrainRuns) -> None:
    rows = json.loads(train_runs("--json", "--sort", "accuracy/test").out)
    assert [row["test_accuracy"] for row in rows] == [0.5, 0.6, 0.75, 0.8, 0.9, None]
    first, failed = rows[0], rows[-1]
    assert (first["sweep"], first["arm"], first["norm"], first["seed"], first["tags"]) == ("sweep", "norm=none", "none", 0, [])
    assert (failed["status"], failed["reason"], failed["sweep"]) == ("failed", "no memory", "")
    assert rows[2]["optimizer.lr"] == 0.1
    table = list(csv.DictReader(io.StringIO(train_runs("--csv", "--sort", "accuracy/test").out)))
    assert [row["test_accuracy"] for row in table] == ["0.5", "0.6", "0.75", "0.8", "0.9", ""]
    assert list(table[0]) == list(first)
    assert train_runs("--json", "--where", "seed=99").out == "[]\n"


def test_running_run_shows_how_far_it_is(outputs: Path, train_runs: TrainRuns) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(time.time() - 600))
    status = {"total_steps": 80, "started": started, "wall_s": None}
    write_run(outputs / "now", ["norm=batch"], 0.6, "running", records=3, layers=1, status=status)
    (row, *_) = train_runs().rows
    assert row.startswith("running 25 %")
    assert "10 min" in row
    assert "60." in row, "the last accuracy on the validation split"


def test_cut_copy_of_a_run_is_incomplete(outputs: Path, train_runs: TrainRuns) -> None:
    records = outputs / "single" / "metrics.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    for content in (b"".join(lines[:3]), b"".join(lines)[:-9], b"".join(lines[:-1]), b""):
        records.write_bytes(content)
        assert train_runs("--where", "status=incomplete", "run=single").rows
    records.unlink()
    assert "metrics.jsonl is missing" in train_runs("--json", "--where", "status=incomplete").out
    records.write_bytes(
        b"".join([*lines[:-1], b'{"step":10,"epoch":0,"time_s":0,"values":{', b'"a/x":0,' * 5000, b'"loss/test":0}}\n'])
    )
    assert train_runs("--where", "status=done", "run=single").rows


REFUSED = {
    "no folder": (["nowhere"], "nowhere"),
    "no condition": (["--where", "norm"], "--where norm"),
    "a folder after --where": (["--where", "norm=batch", "outputs"], "folders before"),
    "no key": (["--where", "nrom=batch"], "'norm'"),
    "no sort key": (["--sort", "acuracy/test"], "--sort acuracy/test"),
    "no column": (["--show", "norm,lrr"], "--show lrr"),
    "no group": (["--by", "nrom"], "--by nrom"),
    "no metric": (["--by", "norm", "--metric", "accuracy"], "--metric accuracy"),
    "no limit": (["--limit", "0"], "--limit"),
    "two forms": (["--json", "--csv"], "--csv"),
    "no status": (["--where", "status=finished"], "status=finished"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("outputs")
def test_bad_input_is_one_message(case: str, train_runs: TrainRuns) -> None:
    arguments, text = REFUSED[case]
    result = train_runs(*arguments)
    assert (result.code, result.out) == (2, "")
    assert text in result.err
    assert "Traceback" not in result.err


def test_nothing_to_list_is_said(tmp_path: Path, train_runs: TrainRuns, outputs: Path) -> None:
    result = train_runs("--where", "norm=bacth")
    assert (result.code, result.out) == (0, "")
    assert "norm is batch (2)" in result.err
    (tmp_path / "empty").mkdir()
    assert "no runs" in train_runs(tmp_path / "empty").err
    (outputs / "torn").mkdir()
    (outputs / "torn" / "status.json").write_text("{")
    assert "1 folder cannot be read, the first is outputs/torn" in train_runs().err
    (outputs / "sweep" / "sweep.json").write_text("{")
    assert "sweep.json cannot be read" in train_runs().out


def test_sweep_without_runs_is_listed(outputs: Path, train_runs: TrainRuns) -> None:
    for path in (outputs / "sweep").glob("norm*/status.json"):
        path.unlink()
    assert "5 missing" in train_runs().rows[-1]


def test_strangers_folder_is_shown_and_not_obeyed(tmp_path: Path, train_runs: TrainRuns) -> None:
    sweep = write_hostile_sweep(tmp_path / "hostile")
    os.mkfifo(sweep / "pipe")
    (sweep / "away").symlink_to("/")
    (sweep / "notes.json").write_text(json.dumps({"note": "\x1b[2J", "tags": ["\u202e"], "archived": True}))
    for arguments in ([], ["--by", "norm"], ["--csv"], ["--show", "reason"]):
        result = train_runs(tmp_path / "hostile", "--archived", *arguments)
        assert result.code == 0, result.err
        assert "HYPERLINK" in result.out
        assert invisible(result.out + result.err) == set()
        assert not [line for line in result.out.splitlines() if line.startswith(("# heading", "- item", "---"))]
    cells = [cell for row in csv.reader(io.StringIO(train_runs(sweep, "--csv").out)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+@" and cell]


@pytest.mark.parametrize("notes", ["[]", "{", '{"tags": "a"}', '{"note": 3}', "null"])
def test_notes_that_cannot_be_read_are_none(notes: str, outputs: Path, train_runs: TrainRuns) -> None:
    (outputs / "single" / "notes.json").write_text(notes)
    result = train_runs()
    assert (result.code, result.err) == (0, "")
    assert result.rows[0].endswith("single")


def test_table_is_cut_to_the_terminal_and_keeps_the_end_of_a_name() -> None:
    heads, row = ("status", "n", "arm", "run"), ("done", "12", "norm=batch " * 9, "2026-01-31_sweep/norm=batch_1d3d0532")
    text = table_text(heads, [row, ("failed", "3", "x", "y\x1b[2J\n")], ("arm", "run"), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[1].endswith("1d3d0532")
    assert "\\x1b[2J" in text
    assert len(text.splitlines()) == 3
    assert "norm=batch " * 8 in table_text(heads, [row], ("arm", "run"))
    assert "n" not in table_text(("status", "n"), [("done", "")], ()).splitlines()[0].split()
