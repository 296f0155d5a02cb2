"""The results of a report as Parquet: results.parquet, one row per run, and curves.parquet, one row per run, tag and step.

Both are for pandas, polars, DuckDB and whatever else reads Parquet. Importing this module imports pyarrow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from train.escape import line
from train.naming import ABSENT
from train.report.analysis import Analysis
from train.report.arrow_arrays import array, of_numbers
from train.report.history import Curve
from train.report.paths import relative_path
from train.report.results_csv import Kind, Results

_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "whole": pa.int64(),
    "real": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
}
_NO_LEVEL = frozenset({ABSENT, "null"})
_FLAGS = {"true": True, "false": False}
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_REAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_NAMES = pa.dictionary(pa.int32(), pa.string())
_CURVES = pa.schema(
    [("folder", _NAMES), ("arm", _NAMES), ("seed", pa.int64()), ("tag", _NAMES), ("step", pa.int64())]
    + [(name, pa.float64()) for name in ("epoch", "time_s", "value")]
)
_AT_ONCE = 1 << 14
"""Rows of curves.parquet that are held to be written together: with eight times as many, writing takes 50 MB more."""


def results_parquet(found: Results) -> memoryview:
    """Return results.parquet: the columns of results.csv with types.

    Unknown values are null, and so are levels that are absent or `null`. The levels of a factor are numbers, or true and false,
    where all of them are. Text has its control characters shown, but no apostrophes against formulas, since no spreadsheet opens
    the file.
    """
    columns = list(zip(*found.rows, strict=True)) or [()] * len(found.columns)
    arrays = [_array(kind, values) for (_, kind), values in zip(found.columns, columns, strict=True)]
    table = pa.Table.from_arrays(arrays, names=_unique(line(name) for name, _ in found.columns))
    return _written(table.schema, [table])


def curves_parquet(analysis: Analysis, out: Path) -> memoryview:
    """Return curves.parquet: the learning curves and the metric of all runs, as they were recorded.

    `folder`, `arm` and `seed` are those of results.parquet; `tag`: such as loss/train; `step`: updates done; `epoch`: passes over
    the training images; `time_s`: seconds since the run started; `value`: NaN and infinities included.
    """
    return _written(_CURVES, _in_batches(_curves(analysis, out)))


def _unique(names: Iterable[str]) -> list[str]:
    """Return the names, of which a later one that is there already gets a number: readers find columns by their names."""
    found: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in range(2, 1 << 20))
        found[name if name not in found else next(other for other in numbered if other not in found)] = None
    return list(found)


def _array(kind: Kind, values: Sequence[Any]) -> pa.Array:
    if kind == "level":
        kind = _kind_of(values)
        values = [None if level in _NO_LEVEL else _LEVELS.get(kind, str)(level) for level in values]
    convert = _CONVERTED[kind]
    return array(_TYPES[kind], [None if value is None else convert(value) for value in values])


def _kind_of(levels: Iterable[str]) -> Kind:
    """Return the kind that all levels can be read as."""
    present = {level for level in levels if level not in _NO_LEVEL}
    if not present:
        return "text"
    if all(map(_WHOLE.fullmatch, present)):
        return "whole"
    return "real" if all(map(_REAL.fullmatch, present)) else "flag" if present <= _FLAGS.keys() else "text"


def _whole(value: Any) -> int | None:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return whole if isinstance(whole, int) and -(1 << 63) <= whole < 1 << 63 else None


def _real(value: Any) -> float | None:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _time(value: Any) -> datetime | None:
    """Return a time of ISO 8601 that says how far it is from UTC; None for any other text."""
    try:
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


_LEVELS: dict[Kind, Callable[[str], Any]] = {"whole": int, "real": float, "flag": _FLAGS.__getitem__}
_CONVERTED: dict[Kind, Callable[[Any], Any]] = {
    "text": lambda value: line(str(value)),
    "whole": _whole,
    "real": _real,
    "flag": bool,
    "time": _time,
}


def _curves(analysis: Analysis, out: Path) -> Iterator[tuple[tuple[str, str, int, str], Curve]]:
    """Yield folder, arm, seed and tag of every curve, and the curve."""
    for arm in analysis.ranked:
        label = line(analysis.study.labels[arm.id])
        for run in (*arm.runs, *arm.unchosen_runs):
            folder, seed = line(relative_path(run.folder, out)), _whole(run.seed) or 0
            for tag, curve in analysis.history(run).curves.items():
                yield (folder, label, seed, line(tag)), curve


def _in_batches(curves: Iterable[tuple[tuple[str, str, int, str], Curve]]) -> Iterator[pa.Table]:
    """Yield tables of many curves each."""
    batch: list[tuple[tuple[str, str, int, str], Curve]] = []
    rows = 0
    for item in curves:
        batch.append(item)
        rows += len(item[1].values)
        if rows >= _AT_ONCE:
            yield _table_of(batch)
            batch, rows = [], 0
    if batch:
        yield _table_of(batch)


def _table_of(batch: Sequence[tuple[tuple[str, str, int, str], Curve]]) -> pa.Table:
    lengths = [len(curve.values) for _, curve in batch]
    folders, arms, seeds, tags = zip(*(names for names, _ in batch), strict=True)
    folder, arm, tag = (_repeated(names, lengths) for names in (folders, arms, tags))
    seed = of_numbers(np.repeat(np.asarray(seeds, dtype=np.int64), lengths), pa.int64())
    step = of_numbers(_joined(batch, "steps"), pa.int64())
    reals = (of_numbers(_joined(batch, name), pa.float64()) for name in ("epochs", "times_s", "values"))
    return pa.Table.from_arrays([folder, arm, seed, tag, step, *reals], schema=_CURVES)


def _joined(batch: Sequence[tuple[tuple[str, str, int, str], Curve]], name: str) -> NDArray[Any]:
    return np.concatenate([np.asarray(getattr(curve, name)) for _, curve in batch])


def _repeated(names: Sequence[str], lengths: Sequence[int]) -> pa.DictionaryArray:
    """Return each name as often as its curve is long."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    indices = np.repeat(np.asarray([places[name] for name in names], dtype=np.int32), lengths)
    return pa.DictionaryArray.from_arrays(of_numbers(indices, pa.int32()), array(pa.string(), list(places)))


def _written(schema: pa.Schema, tables: Iterable[pa.Table]) -> memoryview:
    """Return a file of Parquet with these tables, one after the other.

    Without Arrow's own schema, names that are repeated are text for every reader, which joins both files by it. Arrow's own
    memory pool would reserve 15 MB more than the system's does.
    """
    pool = pa.system_memory_pool()
    sink = pa.BufferOutputStream(pool)
    with pq.ParquetWriter(sink, schema, compression="zstd", store_schema=False, memory_pool=pool) as writer:
        for table in tables:
            writer.write_table(table)
    return memoryview(sink.getvalue())
