"""Reports of whatever lies in the folders: mixtures, runs that go on, that failed, that are damaged, hostile names."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from tests.report.test_report import results, table_rows
from train.report.history import read_history
from train.report.make import ReportOptions, make_report
from train.report.table_text import MINUS, UNKNOWN
from train.store.run import read_run

QUIET = ReportOptions(tensorboard=False)


def report(folder: Path, options: ReportOptions = QUIET) -> str:
    return make_report([folder], folder, options).read_text()


def section(page: str, name: str) -> str:
    return page.split(f'id="{name}"')[1].split("</section>")[0]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Path:
    """Two arms with three runs each that ended, and everything that can happen to others."""
    folder = tmp_path_factory.mktemp("troubled")
    for seed in range(3):
        write_run(folder / f"a{seed}", [f"seed={seed}"], 0.8 + seed / 100, started=seed)
        write_run(folder / f"b{seed}", ["norm=none", f"seed={seed}"], 0.6 + seed / 100, started=10 + seed)
    write_run(folder / "b3", ["norm=none", "seed=3"], None, "diverged", reason="the training loss was not finite at step 14")
    write_run(folder / "b4", ["norm=none", "seed=4"], 0.99, "failed", reason="ValueError: no <b>room</b>")
    write_run(folder / "b5", ["norm=none", "seed=5"], 0.99, "interrupted", reason="SIGINT")
    alive = {"pid": os.getpid(), "host": socket.gethostname()}
    write_run(folder / "b6", ["norm=none", "seed=6"], 0.99, "running", status=alive)
    gone = {"pid": 2**22 + 1, "host": socket.gethostname()}
    write_run(folder / "b7", ["norm=none", "seed=7"], 0.99, "running", status=gone)
    with (folder / "b6" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')  # being written
    write_run(folder / "torn", ["norm=none", "seed=8"], 0.99)
    (folder / "torn" / "status.json").write_text("{")
    write_run(folder / "unknown", ["norm=none", "seed=9"], 0.99)
    (folder / "unknown" / "config.yaml").write_text("[1, 2]")
    write_run(folder / "early", ["norm=none", "seed=10"], 0.99)
    (folder / "early" / "config.yaml").unlink()
    shutil.copytree(folder / "a1", folder / "copy of a1")
    return folder


@pytest.fixture(scope="module")
def page(troubled) -> str:
    return report(troubled)


def test_only_runs_that_ended_are_averaged(page):
    row = table_rows(page)["norm=none"]
    assert row[2] == "3 / 1 / 2 2 not ended"
    assert row[3].startswith("61.00 ")
    assert row[9].startswith("1/4 [")


def test_whatever_did_not_end_is_listed_with_its_reason(page):
    missing = section(page, "missing")
    assert "the training loss was not finite at step 14" in missing
    assert "no &lt;b&gt;room&lt;/b&gt;" in missing
    assert re.search(r"<td>lost</td><td>its process ended without saying why", missing)
    assert re.search(r"<td>interrupted</td><td>SIGINT", missing)
    assert re.search(r"<td>running</td><td>unfinished: step 50, epoch 0.50 of 12, accuracy/val 0\.99", missing)


def test_damaged_folders_and_copies_are_named_and_not_counted(page, troubled):
    missing = section(page, "missing")
    for name in ("torn", "unknown", "early"):
        assert re.search(rf'<span class="path">{name}</span>: ', missing), name
    assert "the same experiment is counted from" in missing
    assert table_rows(page)["baseline"][2] == "3 / 0 / 0"
    assert len(results(troubled)) == 11


def test_a_comparison_with_runs_that_diverged_is_no_claim(page):
    assert re.search(r'<article class="claim not_comparable">\s*<p class="verdict"><b>norm</b>', page)


def test_the_terminal_does_not_stumble_over_it(troubled, train_report, tmp_path):
    result = train_report(troubled, "--out", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "(1 diverged, 2 failed)" in result.stdout


@pytest.mark.usefixtures("page")
def test_markdown_says_the_same(troubled):
    text = (troubled / "report.md").read_text()
    assert "| 3 / 1 / 2, 2 not ended | 61.00 ± " in text
    assert r"no \<b\>room\</b\>" in text


def test_the_last_look_is_one_at_all_layers(tmp_path):
    """A run that was cut off may end with a record of what its batch norms told."""
    run = write_run(tmp_path / "a", [], 0.5, "interrupted")
    looked = read_history(read_run(run), ["loss/train"])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step":99,"epoch":1.0,"time_s":2.0,"values":{"activation_std/stage0.conv0":7.0}}\n')
    assert read_history(read_run(run), ["loss/train"]).last_signal == looked.last_signal
    assert len(looked.last_signal) > 4


@pytest.mark.parametrize("first", ["failed", "interrupted", "done"])
def test_of_attempts_at_one_experiment_the_last_that_ended_counts(tmp_path, first):
    write_run(tmp_path / "a", [], 0.5, first, started=0)
    write_run(tmp_path / "b", [], 0.8, started=1)
    write_run(tmp_path / "c", [], None, "failed", started=2)
    row = table_rows(report(tmp_path))
    assert [cells[2:4] for cells in row.values()] == [["1 / 0 / 0", "80.00"]]


@pytest.mark.parametrize(("state", "accuracy"), [("done", 0.8), ("failed", None), ("diverged", None), ("queued", None)])
def test_a_single_run_is_reported_whatever_became_of_it(tmp_path, state, accuracy):
    write_run(tmp_path / "run", [], accuracy, state, records=2 if state != "queued" else 0)
    page = report(tmp_path / "run")
    assert "One arm, without a comparison" in page
    assert "No claim" in page
    assert not (tmp_path / "run" / "summary").exists()


def test_arms_of_one_run_have_differences_without_intervals(tmp_path):
    write_run(tmp_path / "a", [], 0.8)
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1)
    row = table_rows(report(tmp_path))["norm=none"]
    assert row[6] == f"{MINUS}10.00"
    assert row[7] == UNKNOWN


def test_without_a_plan_the_baseline_is_what_most_arms_share(tmp_path):
    runs = [
        (["init=xavier"], 0.7),
        ([], 0.8),
        (["norm=none"], 0.6),
        (["optimizer.lr=0.05"], 0.75),
        (["norm=group", "norm.groups=4"], 0.8),
    ]
    runs += [(["norm=group", "norm.groups=8"], 0.8)]
    for i, (overrides, accuracy) in enumerate(runs):
        write_run(tmp_path / str(i), overrides, accuracy, started=i)
    page = report(tmp_path)
    assert "no plan names one" in page
    assert re.search(r"<dt>Baseline</dt><dd>init=kaiming norm=batch optimizer.lr=0.2: ", page)
    assert set(table_rows(page)) == {
        "baseline",
        "init=xavier",
        "norm=none",
        "optimizer.lr=0.05",
        "norm=group norm.groups=4",
        "norm=group norm.groups=8",
    }
    assert {row["norm.groups"] for row in results(tmp_path)} == {"-", "4", "8"}


def test_two_sweeps_in_one_report_keep_both_plans(tmp_path):
    one = write_sweep(tmp_path / "one", {("norm=batch",): (0.8, 0.81), ("norm=none",): (0.6, 0.61)}, without=1)
    write_sweep(tmp_path / "two", {("init=kaiming",): (0.8,), ("init=gaussian",): (0.5, 0.52)}, without=1)
    page = make_report([one, tmp_path / "two"], tmp_path / "out", QUIET).read_text()
    assert "train -m norm=batch,none" in page
    assert "train -m init=kaiming,gaussian" in page
    assert len(re.findall(r"<code>train \w+=\w+ seed=1</code>", section(page, "missing"))) == 2
    assert set(table_rows(page)) == {"baseline", "norm=none", "init=gaussian"}
    assert "counted once" in page  # the defaults are in both


def test_a_sweep_that_has_not_begun_has_a_report(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", {("norm=batch",): (0.8, 0.8), ("norm=none",): (0.6, 0.6)})
    for run in [path for path in sweep.iterdir() if path.is_dir()]:
        shutil.rmtree(run)
    page = report(sweep)
    assert "0 runs of 2 arms: none yet, 4 not made" in page


def test_names_from_run_folders_are_text_and_nothing_else(tmp_path):
    evil = "<script>alert(1)</script>"
    nasty = {"norm": f"{evil}\"'&|`*_", "init": "Grüße 漢字 $x$"}
    write_run(tmp_path / "plain", [], 0.8)
    write_run(tmp_path / "<img src=x>", ["data.root=x"], 0.7, choices=nasty, started=1, status={"device": evil})
    write_run(tmp_path / "failed", ["data.root=x", "seed=1"], None, "failed", choices=nasty, reason=f"no {evil} | `x`")
    (tmp_path / "<img src=x>" / "overrides.yaml").write_text(json.dumps([f"data.root={evil}"]))
    page = report(tmp_path)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    text = (tmp_path / "report.md").read_text()
    assert not re.search(r"(?<!\\)<script", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))
    assert "漢字" in page
    for drawing in (tmp_path / "figures").iterdir():
        assert b"<script" not in drawing.read_bytes()


def test_names_in_figures_are_drawn_as_they_are(tmp_path):
    write_run(tmp_path / "a", [], 0.8)
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1, choices={"norm": "漢 $\\frac{x$ 字"})
    assert "漢 $\\frac{x$ 字" in report(tmp_path)
    assert (tmp_path / "figures" / "differences.svg").exists()


def test_numbers_that_are_none_are_not_known(tmp_path):
    write_run(tmp_path / "a", [], 0.8, summary={"test_accuracy": "many", "parameters": None, "time_s": "NaN"})
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1)
    (tmp_path / "b" / "metrics.jsonl").write_text(
        '{"step": "?"}\n[]\n{"step":1,"epoch":1,"time_s":1,"values":{"loss/train":"x"}}\n'
    )
    page = report(tmp_path)
    assert "has no test accuracy that is a number" in page
    row = results(tmp_path)[-1]
    assert (row["test_accuracy"], row["parameters"]) == ("", "")
    assert "metrics.jsonl holds a line that is no record" in page
