"""Reports of unusual folders: mixed, running, failed or damaged runs, and hostile names."""

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
from train.report.table_text import UNKNOWN
from train.store.code import code_id
from train.store.run import read_run
from train.text import MINUS

QUIET = ReportOptions(tensorboard=False)


def report(folder: Path, options: ReportOptions = QUIET) -> str:
    return make_report([folder], folder, options)[0].read_text()


def section(page: str, name: str) -> str:
    return page.split(f'id="{name}"')[1].split("</section>")[0]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Path:
    """Two arms with three completed runs each, and further runs in every other state."""
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


def test_table_averages_completed_runs_only(page):
    row = table_rows(page)["norm=none"]
    assert row[2] == "3 / 1 / 2 2 incomplete"
    assert row[3].startswith("61.00 ")
    assert row[10].startswith("1/4 [")


def test_page_lists_incomplete_runs_with_reasons(page):
    excluded = section(page, "excluded")
    assert "the training loss was not finite at step 14" in excluded
    assert "no &lt;b&gt;room&lt;/b&gt;" in excluded
    assert re.search(r"<td data-label=.state.>lost</td><td>its process ended without recording why", excluded)
    assert re.search(r"<td data-label=.state.>interrupted</td><td>SIGINT", excluded)
    assert re.search(r"<td data-label=.state.>running</td><td>at step 50, epoch 0.50 of 12, accuracy/val 0\.99", excluded)


def test_page_excludes_damaged_folders_and_copies(page, troubled):
    excluded = section(page, "excluded")
    for name in ("torn", "unknown", "early"):
        assert re.search(rf'<span class="path">{name}</span>: ', excluded), name
    assert "the same experiment is counted from" in excluded
    assert table_rows(page)["baseline"][2] == "3 / 0 / 0"
    assert len(results(troubled)) == 11


def test_diverged_runs_make_an_arm_not_comparable(page):
    assert re.search(r'<b>norm</b> <span>not comparable</span></p>\s*<p class="level not_comparable">', page)


def test_page_says_once_which_runs_are_not_in_a_mean(page):
    threats = page.split('id="threats"')[1].split("</section>")[0]
    assert re.search(r"</b> 1 run diverged \(1 of norm=none\): the means cover only the other runs", threats)
    assert re.search(r"</b> 2 runs failed \(2 of norm=none\): ", threats)
    assert table_rows(page)["norm=none"][2].startswith("3 / 1 / 2")
    assert page.count("1 run diverged") == page.count("2 runs failed") == 1


def test_terminal_counts_lost_runs(troubled, train_report, tmp_path):
    result = train_report(troubled, "--out", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "(1 diverged, 2 failed)" in result.stdout


@pytest.mark.usefixtures("page")
def test_markdown_matches_the_page(troubled):
    text = (troubled / "report.md").read_text()
    assert "| 3 / 1 / 2, 2 incomplete | 61.00 ± " in text
    assert r"no \<b\>room\</b\>" in text


def test_last_signal_covers_all_layers(tmp_path):
    """An interrupted run may end with a record of its batch norms alone."""
    run = write_run(tmp_path / "a", [], 0.5, "interrupted")
    history = read_history(read_run(run), ["loss/train"])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step":99,"epoch":1.0,"time_s":2.0,"values":{"activation_std/stage0.conv0":7.0}}\n')
    assert read_history(read_run(run), ["loss/train"]).last_signal == history.last_signal
    assert len(history.last_signal) > 4


@pytest.mark.parametrize("first", ["failed", "interrupted", "done"])
def test_latest_completed_attempt_counts(tmp_path, first):
    write_run(tmp_path / "a", [], 0.5, first, started=0)
    write_run(tmp_path / "b", [], 0.8, started=1)
    write_run(tmp_path / "c", [], None, "failed", started=2)
    row = table_rows(report(tmp_path))
    assert [cells[2:4] for cells in row.values()] == [["1 / 0 / 0", "80.00"]]


@pytest.mark.parametrize(("state", "accuracy"), [("done", 0.8), ("failed", None), ("diverged", None), ("queued", None)])
def test_single_run_has_a_report_in_any_state(tmp_path, state, accuracy):
    write_run(tmp_path / "run", [], accuracy, state, records=2 if state != "queued" else 0)
    page = report(tmp_path / "run")
    assert "One arm, without a comparison" in page
    assert "No claim" in page
    assert not (tmp_path / "run" / "summary").exists()


def test_arms_of_one_run_have_no_intervals(tmp_path):
    write_run(tmp_path / "a", [], 0.8)
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1)
    row = table_rows(report(tmp_path))["norm=none"]
    assert row[6] == f"{MINUS}10.00"
    assert row[7] == UNKNOWN


def test_baseline_without_plan_shares_most_levels(tmp_path):
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
    assert "the arm that shares most settings with the others" in page
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


def test_report_of_two_sweeps_keeps_both_plans(tmp_path):
    first = write_sweep(tmp_path / "first", {("norm=batch",): (0.8, 0.81), ("norm=none",): (0.6, 0.61)}, without=1)
    write_sweep(tmp_path / "second", {("init=kaiming",): (0.8,), ("init=gaussian",): (0.5, 0.52)}, without=1)
    page = make_report([first, tmp_path / "second"], tmp_path / "out", QUIET)[0].read_text()
    assert "train -m norm=batch,none" in page
    assert "train -m init=kaiming,gaussian" in page
    assert len(re.findall(r"<code>train \w+=\w+ seed=1</code>", section(page, "excluded"))) == 2
    assert set(table_rows(page)) == {"baseline", "norm=none", "init=gaussian"}
    assert "counted once" in page  # the defaults are in both


def test_sweep_without_started_runs_has_a_report(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", {("norm=batch",): (0.8, 0.8), ("norm=none",): (0.6, 0.6)})
    for run in [path for path in sweep.iterdir() if path.is_dir()]:
        shutil.rmtree(run)
    page = report(sweep)
    assert "0 runs of 2 arms: none yet, 4 not started" in page


def test_names_from_run_folders_are_escaped(tmp_path):
    script = "<script>alert(1)</script>"
    hostile_choices = {"norm": f"{script}\"'&|`*_", "init": "Grüße 漢字 $x$"}
    write_run(tmp_path / "plain", [], 0.8)
    write_run(tmp_path / "<img src=x>", ["data.root=x"], 0.7, choices=hostile_choices, started=1, status={"device": script})
    write_run(
        tmp_path / "failed", ["data.root=x", "seed=1"], None, "failed", choices=hostile_choices, reason=f"no {script} | `x`"
    )
    (tmp_path / "<img src=x>" / "overrides.yaml").write_text(json.dumps([f"data.root={script}"]))
    page = report(tmp_path)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    text = (tmp_path / "report.md").read_text()
    assert not re.search(r"(?<!\\)<script", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))
    assert "漢字" in page
    for figure in (tmp_path / "figures").iterdir():
        assert b"<script" not in figure.read_bytes()


def test_figures_draw_names_without_math_parsing(tmp_path):
    write_run(tmp_path / "a", [], 0.8)
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1, choices={"norm": "漢 $\\frac{x$ 字"})
    assert "漢 $\\frac{x$ 字" in report(tmp_path)
    assert (tmp_path / "figures" / "differences.svg").exists()


def test_invalid_numbers_are_unknown(tmp_path):
    write_run(tmp_path / "a", [], 0.8, summary={"test_accuracy": "many", "parameters": None, "time_s": "NaN"})
    write_run(tmp_path / "b", ["norm=none"], 0.7, started=1)
    records = tmp_path / "b" / "metrics.jsonl"
    invalid = '{"step": "?"}\n[]\n{"step":1,"epoch":1,"time_s":1,"values":{"loss/train":"x"}}\n'
    records.write_text(invalid + records.read_text())
    write_run(tmp_path / "c", ["norm=none", "seed=1"], 0.7, started=2)
    (tmp_path / "c" / "metrics.jsonl").write_text(invalid)
    page = report(tmp_path)
    assert "completed without a numeric test accuracy" in page
    row = next(row for row in results(tmp_path) if row["folder"] == "a")
    assert (row["test_accuracy"], row["parameters"]) == ("", "")
    assert "metrics.jsonl has an invalid line" in page
    assert re.search(r"<td data-label=.state.>incomplete</td><td>the records in metrics.jsonl end at step 1 of 50", page)


@pytest.mark.parametrize(("codes", "is_threat"), [(("1de4736ba15e", "present"), False), (("1de4736ba15e", "0" * 12), True)])
def test_versions_threat_ignores_equivalent_code(tmp_path, codes, is_threat):
    """Two commits whose code was proved to make the same bits are one version; an unknown id is another."""
    for seed in range(3):
        for norm, code in zip(("batch", "none"), codes, strict=True):
            git = {"commit": code * 3, "dirty": False}
            status = {"code": code_id() if code == "present" else code, "git": git}
            write_run(tmp_path / f"{norm}{seed}", [f"norm={norm}", f"seed={seed}"], 0.5 + seed / 100, status=status)
    report(tmp_path)
    assert ("differ in versions of the code" in (tmp_path / "report.md").read_text()) == is_threat


def test_page_says_which_machine_made_a_run(tmp_path):
    """A run that was preempted may have been made by two."""
    for seed, host in enumerate(("node1", "node2", "node1")):
        write_run(tmp_path / f"a{seed}", [f"seed={seed}"], 0.8, status={"host": host})
        write_run(tmp_path / f"b{seed}", ["norm=none", f"seed={seed}"], 0.6, status={"host": "node1"})
    before = {"time": "", "step": 5, "status": "interrupted", "reason": "", "host": "node3"}
    write_run(tmp_path / "b3", ["norm=none", "seed=3"], 0.6, status={"host": "node1", "resumed": [before]})
    page = report(tmp_path)
    assert "node1 (5 runs), node2 (1 run), node3 then node1 (1 run)" in " ".join(page.split())
    assert "Runs differ in machines (node1; node2; node3), not equally in all arms" in page
    hosts = {row["folder"]: row["host"] for row in results(tmp_path)}
    assert (hosts["a1"], hosts["b3"]) == ("node2", "node3 then node1")
