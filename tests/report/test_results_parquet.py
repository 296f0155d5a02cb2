"""results.parquet and curves.parquet: what results.csv has, with types, and the learning curves of all runs."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import train
from tests.report.folders import write_run, write_sweep
from tests.report.hostile import write_hostile_sweep
from tests.report.test_hostile import invisible
from train.report.analysis import Analysis
from train.report.beside import CURVES, RESULTS
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.results_csv import Kind, Results, csv_text, results
from train.report.results_parquet import curves_parquet, results_parquet

ARMS = {
    ("norm=batch", "optimizer.lr=0.1"): (0.8, 0.81, 0.82),
    ("norm=none", "optimizer.lr=0.02"): (0.6, 0.61, 0.62),
    ("norm=none", "+trainer.max_steps=9"): (0.5, 0.52),
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("parquet") / "sweep", ARMS, records=3, layers=1, design="one_at_a_time")
    write_run(folder / "lost", ["norm=none", "optimizer.lr=0.02", "seed=7"], None, "diverged", records=3, layers=1)
    return folder


@pytest.fixture(scope="module")
def analysis(sweep: Path) -> Analysis:
    return analyse_folders([sweep], ReportOptions(metric="activation_std/stage0.conv0"))


def table_of(content: memoryview) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def test_results_are_those_of_the_csv_with_types(sweep: Path, analysis: Analysis) -> None:
    found = results(analysis, sweep)
    table, texts = table_of(results_parquet(found)), list(csv.DictReader(csv_text(found).splitlines()))
    assert table.column_names == list(texts[0])
    assert len(texts) == table.num_rows == 9
    kinds = {field.name: str(field.type) for field in table.schema}
    for name, kind in {
        **{"folder": "string", "is_baseline": "bool", "trained": "bool", "plan": "int64", "seed": "int64", "seeds.init": "int64"},
        **{"norm": "string", "optimizer.lr": "double", "trainer.max_steps": "int64", "test_accuracy": "double"},
        **{"activation_std/stage0.conv0": "double", "steps": "int64", "started": "timestamp[us, tz=UTC]", "command": "string"},
    }.items():
        assert kinds[name] == kind, name
    for row, text in zip(table.to_pylist(), texts, strict=True):
        for name, value in row.items():
            if value is None:
                assert text[name] in ("", "-", "null"), name
            elif isinstance(value, datetime):
                assert value == datetime.fromisoformat(text[name])
            elif isinstance(value, bool | int | float):
                assert value == {"true": True, "false": False}.get(text[name], None if text[name] in ("true", "false") else value)
                assert isinstance(value, bool) or float(text[name]) == value
            else:
                assert value == text[name]


def test_curves_are_the_records_of_the_runs(sweep: Path, analysis: Analysis) -> None:
    rows = table_of(curves_parquet(analysis, sweep)).to_pylist()
    known = {row["folder"]: row for row in table_of(results_parquet(results(analysis, sweep))).to_pylist()}
    assert {row["folder"] for row in rows} == set(known)
    assert all((row["arm"], row["seed"]) == (known[row["folder"]]["arm"], known[row["folder"]]["seed"]) for row in rows)
    tags = {"loss/train", "accuracy/train", "loss/val", "accuracy/val", "activation_std/stage0.conv0"}
    for folder in known:
        records = train.load(sweep / folder).records
        own = [row for row in rows if row["folder"] == folder]
        assert {row["tag"] for row in own} == tags
        for tag in tags:
            points = [row for row in own if row["tag"] == tag]
            columns = {name: [row[name] for row in points] for name in ("step", "epoch", "time_s", "value")}
            for name, values in columns.items():
                assert repr(values) == repr(getattr(records[tag], name).tolist())


def test_study_without_records_has_empty_tables(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ["norm=none"], None, "queued", records=0)
    analysis = analyse_folders([tmp_path], ReportOptions())
    assert table_of(curves_parquet(analysis, tmp_path)).num_rows == 0
    table = table_of(results_parquet(results(analysis, tmp_path)))
    assert table.num_rows == 1
    assert table["steps"].to_pylist() == [None]
    none = table_of(results_parquet(Results((("a", "whole"), ("b", "level")), ())))
    assert (none.num_rows, [str(kind) for kind in none.schema.types]) == (0, ["int64", "string"])


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("level", ["1", "-", "20", "null"], [1, None, 20, None]),
        ("level", ["0.1", "1", "1e-3"], [0.1, 1.0, 0.001]),
        ("level", ["true", "false"], [True, False]),
        ("level", ["true", "1"], ["true", "1"]),
        ("level", ["007", "1"], ["007", "1"]),
        ("level", ["1_0", "inf", "nan", "0x1"], ["1_0", "inf", "nan", "0x1"]),
        ("level", ["9" * 30, "1"], [1e30, 1.0]),
        ("level", ["-"], [None]),
        ("level", ["\x1b[2J", "=1+1"], ["\\x1b[2J", "=1+1"]),
        ("whole", [1, 2.0, 2.5, 1 << 70, None, "x"], [1, 2, None, None, None, None]),
        ("real", [1, 0.5, float("inf"), 10**400, None], [1.0, 0.5, float("inf"), float("inf"), None]),
        (
            "time",
            ["2026-01-31T10:00:00+0200", "2026-01-31", "0001-01-01T00:00:00+14:00", "x", None],
            ["2026-01-31 08:00:00+00:00", *[None] * 4],
        ),
        ("text", ["a\nb", "\udc80", None], ["a b", "\\udc80", None]),
    ],
)
def test_values_of_a_kind(kind: Kind, values: list[object], expected: list[object]) -> None:
    table = table_of(results_parquet(Results((("x", kind),), tuple((value,) for value in values))))
    found = table["x"].to_pylist()
    assert ([value and str(value) for value in found] if kind == "time" else found) == expected


def test_pandas_is_not_imported() -> None:
    """It takes 50 MB and 0.3 s, and `pyarrow.array` imports it wherever it is installed."""
    kinds = ("text", "whole", "real", "flag", "time", "level")
    program = f"""
import sys
from train.report.results_parquet import Results, results_parquet
row = ("a", 1, 0.5, True, "2026-01-31T10:00:00+0200", "1")
results_parquet(Results(tuple((kind, kind) for kind in {kinds}), (row, (None,) * 5 + ("-",))))
print(*sorted({{"pandas", "torch"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == []


def test_columns_of_one_name_get_numbers() -> None:
    found = Results((("a", "text"), ("a_2", "text"), ("a", "text"), ("\x07", "text")), (("1", "2", "3", "4"),))
    assert table_of(results_parquet(found)).to_pylist() == [{"a": "1", "a_2": "2", "a_3": "3", "\\x07": "4"}]


def test_text_of_a_strangers_folder_is_shown(tmp_path: Path) -> None:
    sweep = write_hostile_sweep(tmp_path)
    analysis = analyse_folders([sweep], ReportOptions())
    for content in (results_parquet(results(analysis, sweep)), curves_parquet(analysis, sweep)):
        table = table_of(content)
        texts = [
            *table.column_names,
            *(str(value) for column in table.columns if column.type == "string" for value in column.to_pylist()),
        ]
        assert any("owned" in text for text in texts) or "tag" in table.column_names
        assert invisible("".join(texts)) == set()
        assert not any("\n" in text for text in texts)


def old_files(folder: Path) -> None:
    for name in (RESULTS, CURVES):
        (folder / name).write_text("of other runs")


def test_page_stands_where_the_library_is_missing(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No older tables stay, which would be of other runs than the page."""
    old_files(tmp_path)
    monkeypatch.delitem(sys.modules, "train.report.results_parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with caplog.at_level(logging.WARNING):
        page, _ = make_report([sweep], tmp_path, ReportOptions(tensorboard=False))
    assert page.exists()
    assert (tmp_path / "results.csv").exists()
    assert not any((tmp_path / name).exists() for name in (RESULTS, CURVES))
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "could not write results.parquet and curves.parquet"
    ]


def test_page_stands_where_a_table_cannot_be_written(sweep: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old_files(tmp_path)
    (tmp_path / CURVES).unlink()
    (tmp_path / CURVES / "something").mkdir(parents=True)
    page, _ = make_report([sweep], tmp_path, ReportOptions(tensorboard=False))
    assert page.exists()
    assert not (tmp_path / RESULTS).exists()
    assert "could not write" in caplog.text


def test_numbers_of_any_size_are_written(analysis: Analysis, sweep: Path) -> None:
    """A stranger's summary may hold them."""
    found = results(analysis, sweep)
    huge = replace(found, rows=tuple(tuple(1 << 80 if isinstance(value, int) else value for value in row) for row in found.rows))
    assert table_of(results_parquet(huge)).num_rows == 9


def test_report_of_a_sweep_of_which_nothing_has_started_is_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So a cluster reports runs that wait in its queue."""
    folder = write_sweep(tmp_path / "sweep", {("norm=batch",): (0.8,)}, without=1)
    with caplog.at_level(logging.INFO):
        make_report([folder], folder, ReportOptions())
    assert caplog.messages == []
    assert pq.read_table(folder / RESULTS).num_rows == pq.read_table(folder / CURVES).num_rows == 0
