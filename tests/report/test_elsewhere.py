"""`train-report TABLE`: the page of runs that were not made here, and what is refused of a table."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.folders import write_run, write_sweep
from tests.report.hostile import PAYLOAD
from tests.report.test_hostile import Elements, invisible
from train.errors import UsageError
from train.report import cli
from train.report.analysis import Analysis
from train.report.elsewhere import analyse_table
from train.report.make import ReportOptions, analyse_folders
from train.report.read_table import MOST_ROWS, TableColumns, open_table, read_rows
from train.report.results_csv import csv_text, results
from train.report.results_parquet import results_parquet

NORM = TableColumns(("norm",), "seed", "acc")
SCORES = {"batch": (0.91, 0.92, 0.915), "none": (0.81, 0.82, 0.80), "group": (0.911, 0.919, 0.914)}
ROWS = [(norm, seed, score) for norm, scores in SCORES.items() for seed, score in enumerate(scores)]
HEAD = ("norm", "seed", "acc")


def write_csv(path: Path, rows: Sequence[Sequence[Any]], head: Sequence[str] = HEAD) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    """Write the table of ROWS with other columns in the place of some."""
    own = dict(zip(HEAD, map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(own | columns), path)
    return path


def verdicts(analysis: Analysis) -> dict[str, str]:
    return {level.level: level.verdict for claim in analysis.claims for level in claim.levels}


def differences(analysis: Analysis) -> dict[str, tuple[Any, ...]]:
    """Return the label of each arm -> the numbers of its comparison."""
    labels = analysis.study.labels
    names = ("difference", "low", "high", "p_adjusted", "n", "n_baseline")
    return {labels[arm]: tuple(getattr(found, name) for name in names) for arm, found in analysis.comparisons.items()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep and its results, with a run that diverged and one that failed."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    arms = {("norm=batch",): (0.8, 0.81, 0.82), ("norm=none",): (0.6, 0.61, 0.62, 0.6), ("norm=group",): (0.79, 0.8, 0.81)}
    write_sweep(folder, arms, records=2, layers=1)
    write_run(folder / "more1", ["norm=none", "seed=8"], None, "diverged", records=2, layers=1)
    write_run(folder / "more2", ["norm=group", "seed=9"], None, "failed", records=2, layers=1)
    found = results(analyse_folders([folder], ReportOptions()), folder)
    (folder / "results.csv").write_text(csv_text(found))
    (folder / "results.parquet").write_bytes(results_parquet(found))
    return folder


@pytest.mark.parametrize("name", ["results.csv", "results.parquet"])
def test_own_results_make_the_same_claims_as_their_runs(sweep: Path, name: str) -> None:
    of_runs = analyse_folders([sweep], ReportOptions())
    of_table = analyse_table(sweep / name, TableColumns(("norm",), "seed"))
    assert differences(of_table) == differences(of_runs)
    assert len(differences(of_table)) == 2
    assert verdicts(of_table) == verdicts(of_runs)
    assert of_table.study.baseline.levels == {"norm": "batch"}
    assert of_table.metric.name == of_runs.metric.name == "test accuracy"
    samples = [sorted(a.samples.values(), key=lambda s: s.values) for a in (of_table, of_runs)]
    for own, theirs in zip(*samples, strict=True):
        assert (own.values, own.seeds, own.diverged, own.failed) == (theirs.values, theirs.seeds, theirs.diverged, theirs.failed)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page of a table."""
    table = write_csv(tmp_path_factory.mktemp("table") / "mine.csv", ROWS)
    assert cli.run([str(table), "--arm", "norm", "--seed", "seed", "--metric", "acc", "--pairs"]) == 0
    return table.with_name("mine_report")


def test_page_says_what_is_missing_and_unchecked(page: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (page / name).read_text()
        for part in ("Not there", "curves, layers", "could not be", "mine.csv", "Higher is better", "Threats to validity"):
            assert part in text
        assert not re.search(r"\btrain [a-z]+=|<pre>|Commands|Versions|learning rate was not tuned|did not record", text)
    assert sorted(path.name for path in page.iterdir()) == ["figures", "pairs.csv", "report.html", "report.md"]
    assert [path.name for path in (page / "figures").iterdir()] == ["differences.svg"]


def test_claims_of_a_table(page: Path) -> None:
    found = analyse_table(page.with_name("mine.csv"), NORM)
    assert verdicts(found) == {"norm=none": "worse", "norm=group": "inconclusive"}
    assert [threat.severity for threat in found.threats if threat.kind == "elsewhere"] == ["caution"]
    assert found.study.baseline_reason.startswith("the arm of the first row")


@pytest.mark.parametrize("baseline", ["none", "norm=none"])
def test_baseline_is_named_by_its_level(tmp_path: Path, baseline: str) -> None:
    assert analyse_table(write_csv(tmp_path / "t.csv", ROWS), NORM, baseline).study.baseline.levels == {"norm": "none"}


def test_columns_of_a_grid_are_its_factors(tmp_path: Path) -> None:
    rows = [(n, i, s, 0.8 + 0.1 * (n == "b") + 0.01 * i + 0.001 * s) for n in "ab" for i in (1, 2) for s in range(3)]
    table = write_csv(tmp_path / "t.csv", rows, ("norm", "init", "seed", "acc"))
    found = analyse_table(table, TableColumns(("norm", "init"), "seed", "acc"))
    assert found.grid is not None
    assert [(effect.factor, effect.level) for effect in found.grid.main] == [("norm", "b"), ("init", "2")]
    assert [round(effect.difference, 6) for effect in found.grid.main] == [0.1, 0.01]


MAKERS: Mapping[str, Any] = {
    "whole numbers": ([16, 32, 64], ["16", "32", "64"]),
    "floats that are whole": ([16.0, 32.0, 0.5], ["16", "32", "0.5"]),
    "flags": ([True, False, True], ["true", "false"]),
    "decimals": ([Decimal("0.10"), Decimal("0.20"), Decimal("0.30")], ["0.10", "0.20", "0.30"]),
    "dates": ([date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)], ["2026-01-01", "2026-01-02", "2026-01-03"]),
    "categories": (pa.array(["a", "b", "c"]).dictionary_encode(), ["a", "b", "c"]),
    "views": (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
    "large texts": (pa.array([" a", "b ", "c\n"], pa.large_string()), ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_levels_of_parquet_are_text(tmp_path: Path, kind: str) -> None:
    values, expected = MAKERS[kind]
    table = pa.table({"a.b": values, "seed": pa.array([1.0, 2.0, 3.0]), "acc": pa.array([1, 0, 1], pa.float32())})
    pq.write_table(table, tmp_path / "t.parquet")
    found = analyse_table(tmp_path / "t.parquet", TableColumns(("a.b",), "seed", "acc"))
    assert sorted(arm.levels["a.b"] for arm in found.study.arms) == sorted(expected)
    assert sorted(run.seed for run in found.study.runs) == [1, 2, 3]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_other_programs_is_read(tmp_path: Path, delimiter: str) -> None:
    lines = ["\ufeff" + delimiter.join(['"norm"', " seed", "acc "]), *(delimiter.join(map(str, row)) for row in ROWS), ""]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode())
    assert verdicts(analyse_table(tmp_path / "t.csv", NORM)) == {"norm=none": "worse", "norm=group": "inconclusive"}


@pytest.mark.parametrize(
    ("name", "scale", "better", "share", "higher"),
    [
        ("val_acc", 1, None, True, True),
        ("valAccuracy", 100, None, True, True),
        ("test_accuracy", 1, None, True, True),
        ("acc", 1000, None, False, True),
        ("val_loss", 1, None, False, False),
        ("top1_error", 1, None, False, False),
        ("mIoU", 1, None, False, None),
        ("mIoU", 1, "higher", False, True),
        ("acc_loss", 1, None, False, None),
        ("acc", 1, "lower", True, False),
    ],
)
def test_metric_is_known_by_its_name_or_what_is_said(
    tmp_path: Path, name: str, scale: int, better: Any, share: bool, higher: bool | None
) -> None:
    table = write_csv(tmp_path / "t.csv", [(n, s, scale * v) for n, s, v in ROWS], ("norm", "seed", name))
    found = analyse_table(table, TableColumns(("norm",), "seed", name, better))
    assert (found.metric.is_share, found.metric.higher_is_better) == (share, higher)
    assert found.mean(found.study.arms[0]) == pytest.approx(0.915 if share else 0.915 * scale)
    expected = {True: "worse", False: "better", None: "different"}[higher]
    assert verdicts(found)["norm=none"] == expected


def test_state_tells_what_became_of_runs_without_a_result(tmp_path: Path) -> None:
    more = [("none", 7, "", "diverged"), ("none", 8, "nan", "failed"), ("group", 9, "", "running"), ("group", 4, 0.9, "done")]
    table = write_csv(tmp_path / "t.csv", [*((*row, "") for row in ROWS), *more], (*HEAD, "state"))
    found = analyse_table(table, NORM)
    samples = {arm.levels["norm"]: found.samples[arm.id] for arm in found.study.arms}
    counts = {norm: (len(s.values), s.diverged, s.failed, s.missing) for norm, s in samples.items()}
    assert counts == {"batch": (3, 0, 0, 0), "none": (3, 1, 1, 0), "group": (4, 0, 0, 1)}


def test_columns_of_other_meaning_are_left_alone(tmp_path: Path) -> None:
    """`compared` and `trained` are ours only in a table that has all columns of our results.csv."""
    table = write_csv(
        tmp_path / "t.csv", [(*row, "false", "false", "x") for row in ROWS], (*HEAD, "compared", "trained", "is_baseline")
    )
    assert len(analyse_table(table, NORM).averaged_runs(analyse_table(table, NORM).study.arms[0])) == 3


def test_rows_that_were_not_compared_and_learned_nothing_stay_so(tmp_path: Path, sweep: Path) -> None:
    rows = list(csv.DictReader((sweep / "results.csv").read_text().splitlines()))
    first, second = rows[0], next(row for row in rows if row["norm"] == "group")
    first["compared"], second["trained"] = "false", "false"
    table = write_csv(tmp_path / "t.csv", [list(row.values()) for row in rows], list(rows[0]))
    found = analyse_table(table, TableColumns(("norm",), "seed"))
    assert "without 1 row that was not compared" in found.study.collection.table
    assert len(found.study.runs) == len(rows) - 1
    assert [sample.untrained for sample in found.samples.values()].count(1) == 1


def bad_tables() -> dict[str, tuple[Any, Sequence[str], str]]:
    """Return what is wrong -> text or rows of the table, further arguments, and what the message says."""
    last = ROWS[:-1]
    return {
        "no such arm": (ROWS, ["--arm", "nrom"], "--arm nrom: .* no such column. Did you mean 'norm'"),
        "no such seed": (ROWS, ["--seed", "sede"], "--seed sede: .*Did you mean 'seed'"),
        "no such metric": (ROWS, ["--metric", "accuracy/test"], "--metric accuracy/test: .*Known: acc, norm, seed"),
        "column twice": (ROWS, ["--arm", "seed"], "name the column 'seed' twice"),
        "two columns of a name": ("norm,seed,acc,acc\na,1,1,1\n", [], "2 columns of this name"),
        "no value": ([*last, ("group", 2, "")], [], "line 10 .*has no number. Remove the row, or say in a column 'state'"),
        "nan": ([*last, ("group", 2, "NaN")], [], "line 10 .*has no number"),
        "too large": ([*last, ("group", 2, "-1e200")], [], "line 10 .*has '-1e200', and numbers up to 1e.150"),
        "infinite": ([*last, ("group", 2, "inf")], [], "line 10 .*has 'inf', and a finite number"),
        "text in the metric": ([*last, ("group", 2, "good")], [], "line 10 .*has 'good'"),
        "percent sign": ([*last, ("group", 2, "91.2 %")], [], "'91.2 %'.*no unit"),
        "decimal comma": ([*last, ("group", 2, "0,91")], [], "'0,91'.*have a point"),
        "underscore": ([*last, ("group", 2, "1_0")], [], "has '1_0'"),
        "no level": ([*last, (" ", 2, 0.9)], [], "--arm norm: line 10 .*has nothing"),
        "endless level": ([*last, ("x" * 2000, 2, 0.9)], [], "has 2,000 characters"),
        "no seed": ([*last, ("group", "", 0.9)], [], "--seed seed: line 10 .*has nothing"),
        "seed of text": ([*last, ("group", "two", 0.9)], [], "has 'two', and a whole number"),
        "seed of a part": ([*last, ("group", 1.5, 0.9)], [], "has '1.5'"),
        "seed without end": ([*last, ("group", "9" * 5000, 0.9)], [], "has '999.*and a whole number"),
        "seed twice": ([*ROWS, ("none", 1, 0.5)], [], "line 6 and line 11 .*both seed 1 of 'norm=none'"),
        "no rows": ([], [], "no row to compare"),
        "nothing": ("", [], "the first line is empty"),
        "too few cells": ("norm,seed,acc\na,1\n", [], "line 2 has 2 cells, and the first line names 3"),
        "open quote": ('norm,seed,acc\n"a,1,2\n', [], "not valid CSV"),
        "endless cell": (f"norm,seed,acc\n{'x' * 200_000},1,2\n", [], "not valid CSV"),
        "other encoding": ("norm,seed,acc\nä,1,2\n".encode("latin-1"), [], "neither Parquet nor text in UTF-8"),
        "no Parquet": (b"PAR1 and no more", [], "not a file of Parquet"),
        "unknown state": ("norm,seed,acc,state\na,1,2,fine\n", [], "line 2 .*has 'fine'. Known: queued"),
        "many rows": ("norm,seed,acc\n" + "a,1,2\n" * 2, ["--seed", "acc", "--metric", "seed"], "line 2 and line 3"),
        "baseline": (ROWS, ["--baseline", "layer"], "--baseline 'layer' matches no arm"),
        "tuned key": (ROWS, ["--tune", "lr"], "a table is reported alone"),
        "direction": (ROWS, ["--better", "higher", "--arm", ""], "--arm COLUMN"),
        "no Python": ("norm,seed,acc\n" + "a,1,__import__('os')\n", [], "a finite number"),
    }


@pytest.mark.parametrize("problem", bad_tables())
def test_bad_table_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    content, arguments, message = bad_tables()[problem]
    path = tmp_path / "t.csv"
    if isinstance(content, list):
        write_csv(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns: list[str] = []
    for option, name in (("--arm", "norm"), ("--seed", "seed"), ("--metric", "acc")):
        columns += [] if option in arguments else [option, name]
    if problem == "direction":
        columns, arguments = ["--seed", "seed"], ["--better", "higher"]
    assert cli.run([str(path), *columns, *arguments]) == 2
    output = capsys.readouterr()
    assert re.search(message, output.err), output.err
    assert len(output.err) < 800
    assert output.err.startswith("train-report: ")
    assert output.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


BAD_COLUMNS: Mapping[str, tuple[dict[str, Any], str]] = {
    "lists": ({"norm": [["a"]] * 9}, "holds 'list<.*text, numbers"),
    "bytes": ({"norm": [b"\xff"] * 9}, "holds 'binary'"),
    "an unknown zone": (
        {"norm": pa.array([0] * 9, pa.timestamp("s", "Mars/Olympus"))},
        "the zone 'Mars/Olympus', which is not known",
    ),
    "no text": ({"norm": pa.Array.from_buffers(pa.string(), 9, pa.array([b"\xff"] * 9).buffers())}, "not a file of Parquet"),
    "flags as results": ({"acc": [True] * 9}, "row 1 .*has 'True'"),
    "no results": ({"acc": pa.nulls(9)}, "row 1 .*no number"),
    "seed of a part": ({"seed": [0.5] * 9}, "row 1 .*has '0.5'"),
    "flag as a seed": ({"seed": [True] * 9}, "row 1 .*has 'True'"),
    "no level": ({"norm": [None] * 9}, "row 1 .*nothing in this column"),
    "texts that unpack": ({"norm": pa.DictionaryArray.from_arrays([0] * 9, ["x" * 1_000_000])}, "1,000,000 characters"),
    "extension": ({"norm": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1"] * 9))}, "holds 'extension"),
}


@pytest.mark.parametrize("problem", BAD_COLUMNS)
def test_bad_column_of_parquet_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    columns, message = BAD_COLUMNS[problem]
    table = write_parquet(tmp_path / "t.parquet", **columns)
    assert cli.run([str(table), "--arm", "norm", "--seed", "seed", "--metric", "acc"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error) < 600


def test_many_rows_are_refused(tmp_path: Path) -> None:
    seeds = pa.array(range(MOST_ROWS + 1))
    table = pa.table({"norm": pa.array(["a"]).take(pa.array([0] * len(seeds))), "seed": seeds, "acc": seeds})
    pq.write_table(table, tmp_path / "t.parquet")
    write_csv(tmp_path / "t.csv", [("a", seed, 1) for seed in range(MOST_ROWS + 1)])
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(UsageError, match=f"{MOST_ROWS:,}"), open_table(tmp_path / name) as opened:
            assert sum(1 for _ in read_rows(opened, [("--arm", "norm")])) == 0


@pytest.mark.parametrize("cut", [5, 40, 200, -9, -4])
def test_torn_parquet_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int) -> None:
    table = write_parquet(tmp_path / "t.parquet")
    table.write_bytes(table.read_bytes()[:cut])
    assert cli.run([str(table), "--arm", "norm", "--seed", "seed", "--metric", "acc"]) == 2
    assert "not a file of Parquet" in capsys.readouterr().err


def test_files_beside_a_table_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report of a table may be written beside it, but not onto it; a link to a table is followed, as its user named it."""
    table = write_csv(tmp_path / "pairs.csv", ROWS)
    content = table.read_bytes()
    columns = ["--arm", "norm", "--seed", "seed", "--metric", "acc"]
    assert cli.run([str(table), *columns, "--out", str(tmp_path)]) == 2
    assert "would overwrite the table pairs.csv" in capsys.readouterr().err
    (tmp_path / "results.csv").symlink_to("pairs.csv")
    assert cli.run([str(tmp_path / "results.csv"), *columns, "--out", str(tmp_path)]) == 2
    assert table.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)], ids=["pipe", "folder", "loop"])
def test_what_is_no_file_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    make(path := tmp_path / "results.csv")
    assert cli.run([str(path), "--arm", "norm", "--seed", "seed"]) == 2
    assert "is no file" in capsys.readouterr().err


def test_parquet_without_its_library_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.run([str(table), "--arm", "norm", "--seed", "seed"]) == 2
    assert "takes the package pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_text_of_a_table_is_shown_and_never_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    column, table = f"norm{PAYLOAD}".replace(",", "").strip(), tmp_path / f"=t\x1b[2J<b>.{suffix}"
    rows = [(f"{norm}{PAYLOAD}", seed, score, "done") for norm, seed, score in ROWS]
    rows.append((f"none{PAYLOAD}", 9, 0.0, "diverged"))
    head = (column, "seed", "acc", "state")
    if suffix == "csv":
        write_csv(table, rows, head)
    else:
        pq.write_table(pa.table(dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))), table)
    assert cli.run([str(table), "--arm", column, "--seed", "seed", "--metric", "acc", "--out", str(tmp_path / "out")]) == 0
    assert cli.run([str(table), "--arm", f"{column}x", "--seed", "seed", "--metric", "acc"]) == 2
    shown = "".join(capsys.readouterr())
    assert invisible(shown) == set()
    assert not re.search(r"^(# heading|- item|---)", shown, re.MULTILINE), "a text stays within its line"
    page, text = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert invisible(page + text) == set()
    elements = Elements(page)
    assert "HYPERLINK" in page
    assert {tag[0] for tag in elements.found}.isdisjoint({"script", "details", "svg/onload=x", "a"})
    assert all(link.startswith("data:") for link in elements.links)
    assert elements.comments == []
    assert set(re.findall(r"^#+ (.*)$", text, re.MULTILINE)).isdisjoint({"heading"})


def lying(path: Path, size: int) -> Path:
    """Write a file of Parquet with a text of `size` characters, whose footer says that its columns unpack to 100 bytes."""
    table = pa.table({"norm": ["y" * size, "b"], "seed": [1, 2], "acc": [0.1, 0.2]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    content, group = path.read_bytes(), pq.read_metadata(path).row_group(0)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    for said in {group.column(0).total_uncompressed_size, group.total_byte_size}:
        number = varint(2 * said)
        footer = footer.replace(number, varint(2 * 100, len(number)))
    path.write_bytes(content[:start] + footer)
    return path


def varint(number: int, length: int = 1) -> bytes:
    """Return a number as Thrift writes it, in at least so many bytes."""
    digits = []
    while number or len(digits) < length:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits[:-1], digits[-1] & 0x7F])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has /proc and this limit")
def test_file_that_lies_about_its_size_takes_bounded_memory(tmp_path: Path) -> None:
    """30 kB that unpack to a gigabyte, of which a text takes several, are one message, with 2 GiB at most."""
    path = lying(tmp_path / "t.parquet", 10**9)
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 100
    program = "import sys; from train.report import cli; code = cli.run(sys.argv[1:]);"
    program += "print(code, open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    arguments = [str(path), "--arm", "norm", "--seed", "seed", "--metric", "acc"]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300, check=True)
    code, memory = map(int, result.stdout.split())
    assert code == 2
    assert memory < 2 << 20, "in kB"
    assert "not a file of Parquet that can be read" in result.stderr
