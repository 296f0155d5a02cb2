"""`train.runs`, as pandas, polars and DuckDB take it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from tests.listing.conftest import TrainRuns
from tests.report.folders import write_run
from tests.report.hostile import write_hostile_sweep
from train.errors import UsageError


def test_runs_are_columns_and_rows(outputs: Path, train_runs: TrainRuns) -> None:
    table = train.runs("outputs")
    assert len(table) == 6
    assert table["norm"] == ["group", "layer", "batch", "batch", "none", "none"]
    assert table["test_accuracy"] == [None, 0.75, 0.8, 0.9, 0.5, 0.6]
    assert {len(values) for values in table.columns.values()} == {6}
    assert [row["seed"] for row in table] == [0, 0, 0, 1, 0, 1]
    assert [*table] == json.loads(train_runs("--json", "--sort", "folder").out)
    assert len(train.runs(outputs, where="status=done")) == 5
    assert train.runs([outputs / "single", outputs / "sweep"], where=["norm=layer,none", "accuracy/test>0.5"])["seed"] == [0, 1]
    assert len(train.runs(outputs, where="seed=9")) == 0
    train_runs("archive", "single")
    assert len(train.runs(outputs)) == 5
    assert train.runs(outputs, archived=True)["archived"].count(True) == 1


def test_bad_arguments_are_one_message(outputs: Path) -> None:
    for folder, where in (("nowhere", ()), (outputs, "nrom=batch"), (outputs, ["norm"])):
        with pytest.raises(UsageError, match=r"nowhere|where nrom|where norm"):
            train.runs(folder, where)


@pytest.mark.parametrize("where", [(), "seed=9"], ids=["some", "none"])
@pytest.mark.usefixtures("outputs")
def test_pandas_takes_the_table(where: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(train.runs("outputs", where))
    assert len(frame) == (0 if where else 6)
    if not where:
        assert frame.groupby("norm")["test_accuracy"].mean().round(6).to_dict() | {"group": None} == {
            "batch": 0.85,
            "group": None,
            "layer": 0.75,
            "none": 0.55,
        }
        assert frame["steps"].sum() == 50


@pytest.mark.parametrize("where", [(), "seed=9"], ids=["some", "none"])
@pytest.mark.usefixtures("outputs")
def test_polars_and_duckdb_take_the_table(where: str) -> None:
    pytest.importorskip("pyarrow")
    table = train.runs("outputs", where)
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    frame = polars.DataFrame(table)
    assert frame.columns == [*table.columns]
    assert {
        "test_accuracy": polars.Float64,
        "seed": polars.Int64,
        "tags": polars.List(polars.String),
    }.items() <= frame.schema.items()
    query = "select norm, count(*), avg(test_accuracy) from table_of_runs where len(tags) = 0 group by norm order by norm limit 1"
    table_of_runs = table
    assert len(table_of_runs) == len(frame)
    assert duckdb.sql(query).fetchall() == ([] if where else [("batch", 2, pytest.approx(0.85))])


@pytest.mark.usefixtures("outputs")
def test_settings_have_one_kind_a_column(outputs: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for name, steps in (("a", "5"), ("b", "null"), ("c", "7")):
        write_run(outputs / name, [f"trainer.max_steps={steps}", f"seed={2**70}"], 0.5, records=1)
    write_run(outputs / "d", ["norm=group", "norm.groups=4"], 0.5, records=1)
    write_run(outputs / "e", ["augment=[flip,crop]", "trainer.compile=true", "trainer.grad_clip=0.5"], 0.5, records=1)
    table = train.runs("outputs", "run=a,b,c,d,e")
    assert table["trainer.max_steps"] == [5, None, 7, None, None]
    assert table["seed"] == [None, None, None, 0, 0]
    kinds = {field.name: str(field.type) for field in pyarrow.table(table).schema}
    wanted = {"trainer.max_steps": "int64", "trainer.compile": "bool", "trainer.grad_clip": "double", "note": "string"}
    assert wanted.items() <= kinds.items()


def test_strangers_folder_is_a_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write_hostile_sweep(tmp_path)
    table = train.runs(tmp_path)
    assert len(table) == pyarrow.table(table).num_rows == 10
    assert all(name.isprintable() for name in table.columns)
