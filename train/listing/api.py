"""`train.runs`: the runs below a folder as a table that pandas, polars and DuckDB take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from train.listing.found import find
from train.listing.rows import FLOATS, TEXTS, WHOLE, Columns, columns_of
from train.store.where import conditions_of, select


class RunTable:
    """A table of runs, one row a run, in the order of their folders.

    `columns`: name -> values, None where they are unknown: text, whole numbers, numbers or true and false, and in `tags` lists of
    texts. Iterated, it gives each row as a mapping. `pandas.DataFrame(table)` takes it; with pyarrow, `polars.DataFrame(table)`
    and DuckDB, as in `duckdb.sql("select norm, avg(test_accuracy) from table_of_runs group by norm")`, do as well.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns: Mapping[str, list[Any]] = columns

    def __len__(self) -> int:
        return len(self.columns["folder"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True))

    def __getitem__(self, name: str) -> list[Any]:
        """Return a column."""
        return self.columns[name]

    def __repr__(self) -> str:
        return f"<table of {len(self)} runs: {', '.join(self.columns)}>"

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the table as Arrow's C stream, the interface by which tables are exchanged."""
        import pyarrow as pa

        kinds = {**dict.fromkeys(TEXTS, pa.string()), **dict.fromkeys(FLOATS, pa.float64()), **dict.fromkeys(WHOLE, pa.int64())}
        kinds |= {"tags": pa.list_(pa.string()), "archived": pa.bool_()}
        unknown = {name for name, values in self.columns.items() if all(value is None for value in values)}
        types = {name: kinds.get(name, pa.string() if name in unknown else None) for name in self.columns}
        arrays = [pa.array(values, type=types[name]) for name, values in self.columns.items()]
        return pa.table(arrays, names=[*self.columns]).__arrow_c_stream__(requested_schema)


def runs(
    folder: str | PathLike[str] | Sequence[str | PathLike[str]] = "outputs",
    where: str | Sequence[str] = (),
    archived: bool = False,
) -> RunTable:
    """Return the runs in and below a folder, or several, as a table: settings, results, and how each was made.

    `where`: conditions that have to hold, as `train-runs --where` takes them: `["norm=batch", "accuracy/test>0.9"]`; `archived`:
    also those that are archived. UsageError (train.errors) when there is no such folder, or no run has a key of a condition.
    """
    folders = [folder] if isinstance(folder, str | PathLike) else folder
    found = find([Path(path) for path in folders], archived)
    conditions = conditions_of([where] if isinstance(where, str) else where, "where")
    return RunTable(columns_of(found, select(found.runs, conditions, "where")))
