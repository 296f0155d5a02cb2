"""Named columns of a table that somebody else made, as CSV or Parquet. It is data: nothing is obeyed, and all is bounded."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, TextIO, TypeAlias

import psutil

from train.errors import UsageError, did_you_mean
from train.escape import line
from train.report.metric import DEFAULT
from train.store.inside import Folder

if TYPE_CHECKING:
    import pyarrow as pa

Direction: TypeAlias = Literal["higher", "lower"]

MOST_BYTES = 1 << 27
"""Of a file, and of what the wanted columns of a file of Parquet unpack to."""
MOST_ROWS = 100_000
MOST_MEMORY = 1 << 30
"""Bytes that reading a file of Parquet may take."""
MOST_SHOWN = 60
"""Characters of a cell or a name, and names, that a message quotes."""
_PARQUET = b"PAR1"
_AT_ONCE = 4096


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table: `arm`: those whose values tell arms apart, `seed`, and `metric`.

    `better`: which values of the metric are better; None where its name tells, or nobody knows.
    """

    arm: tuple[str, ...]
    seed: str
    metric: str = DEFAULT
    better: Direction | None = None


class Table(Protocol):
    """A table that is open. `path`: as the user named it; `place`: what a message calls a row, `line` or `row`."""

    @property
    def path(self) -> Path: ...
    @property
    def place(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...

    def cells(self, positions: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the number of each row, counted from 1, and its cells in the columns at these positions."""
        ...


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a table of CSV or Parquet; the content tells which. UsageError where it, or later a row, cannot be read."""
    try:
        place = path.resolve()
        with Folder(place.parent).open(place.name) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise UsageError(f"{path}: {size:,} bytes, more than the {MOST_BYTES:,} that are read of a table.")
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
            file.seek(0)
            if is_parquet:
                _load_pyarrow(path)
                with _limited_memory():
                    yield _Parquet(path, file)
            else:
                with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
                    yield _Csv(path, lines)
    except UnicodeDecodeError:
        raise UsageError(f"{path}: neither Parquet nor text in UTF-8. Save the table as one of them.") from None
    except csv.Error as error:
        raise UsageError(f"{path}: not valid CSV ({error}).") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise UsageError(f"{path}: this table cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def read_rows(table: Table, wanted: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the place of each row, such as `line 7`, and its cells in the wanted columns.

    `wanted`: option and column, of which the option is named where the column is not there, or twice. UsageError for that, and
    for more than MOST_ROWS rows.
    """
    positions = [_position(table, option, name) for option, name in wanted]
    for count, (number, cells) in enumerate(table.cells(positions), start=1):
        if count > MOST_ROWS:
            raise UsageError(f"{table.path}: more than {MOST_ROWS:,} rows. One row per run is wanted: the end of each run.")
        yield f"{table.place} {number}", cells


def quoted(value: object) -> str:
    """Return a cell or a name for a message."""
    text = line(str(value))
    return f"'{text[:MOST_SHOWN]}{'...' if len(text) > MOST_SHOWN else ''}'"


def _position(table: Table, option: str, name: str) -> int:
    count = table.names.count(name)
    if count == 1:
        return table.names.index(name)
    if count:
        raise UsageError(f"{option} {line(name)}: {table.path} has {count} columns of this name. Rename all but one.")
    known = [line(known)[:MOST_SHOWN] for known in table.names[:MOST_SHOWN]]
    raise UsageError(f"{option} {line(name)}: {table.path} has no such column. {did_you_mean(name, known)}")


def _load_pyarrow(path: Path) -> None:
    """Import pyarrow before memory is limited, and have its pool reserve the gigabyte that it begins with."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path}: to read Parquet takes the package pyarrow. Install it, or name a CSV.") from None
    pa.allocate_buffer(64)


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let this process take no more than MOST_MEMORY besides what it has: a file of Parquet may lie about its own size.

    No effect where the system has no such limit.
    """
    try:
        import resource
    except ImportError:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + MOST_MEMORY
    if before[0] == resource.RLIM_INFINITY or before[0] > most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, before)


class _Csv:
    """Text in UTF-8 whose first line names the columns, separated by commas, or else by semicolons or tabs."""

    place = "line"

    def __init__(self, path: Path, lines: TextIO) -> None:
        self.path = path
        first = lines.readline()
        if not first.strip():
            raise UsageError(f"{path}: the first line is empty, and the names of the columns are wanted there.")
        names = re.sub(r'"[^"]*("|$)', "", first)
        delimiter = next((mark for mark in ",;\t" if mark in names), ",")
        self._reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        self.names = tuple(name.strip() for name in next(self._reader, ()))

    def cells(self, positions: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        for cells in self._reader:
            if not cells:
                continue
            if len(cells) != len(self.names):
                where = f"{self.path}: line {self._reader.line_num} has {len(cells)} cells"
                raise UsageError(f"{where}, and the first line names {len(self.names)} columns.")
            yield self._reader.line_num, [cells[position].strip() for position in positions]


class _Parquet:
    """A file of Parquet. What it says of its own size is checked before it is unpacked, and texts are unpacked once each."""

    place = "row"

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        with self._errors():
            import pyarrow.parquet as pq

            self._metadata = pq.read_metadata(file)
            self._schema = self._metadata.schema.to_arrow_schema()
            self.names = tuple(self._schema.names)

    def cells(self, positions: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        with self._errors():
            import pyarrow.parquet as pq

            self._check(positions)
            texts = [self.names[position] for position in positions if _is_text(self._schema.field(position).type)]
            opened = pq.ParquetFile(self._file, metadata=self._metadata, read_dictionary=texts)
            names = [self.names[position] for position in positions]
            number = 0
            for batch in opened.iter_batches(_AT_ONCE, columns=names, use_threads=False):
                for cells in zip(*(_values(batch.column(name)) for name in names), strict=True):
                    number += 1
                    yield number, cells

    def _check(self, positions: Sequence[int]) -> None:
        """Raise UsageError for columns of a type that is not read, and for a file that unpacks to too much."""
        for position in positions:
            if not _is_plain(kind := self._schema.field(position).type):
                what = f"column {quoted(self.names[position])} holds {quoted(kind)}"
                raise UsageError(f"{self.path}: {what}; text, numbers, dates, true and false are read.")
            if not _is_known_zone(kind):
                what = f"column {quoted(self.names[position])} holds times of the zone {quoted(kind.tz)}"
                raise UsageError(f"{self.path}: {what}, which is not known here. Store them in UTC.")
        if (rows := self._metadata.num_rows) > MOST_ROWS:
            raise UsageError(f"{self.path}: {rows:,} rows, and at most {MOST_ROWS:,} are read. One row per run is wanted.")
        if (size := sum(self._sizes([self.names[position] for position in positions]))) > MOST_BYTES:
            raise UsageError(f"{self.path}: unpacks to {size:,} bytes, more than the {MOST_BYTES:,} that are read of a table.")

    def _sizes(self, names: Sequence[str]) -> Iterator[int]:
        """Yield what each part of the columns is said to unpack to. pyarrow takes a name with a dot for one that is nested."""
        nested = tuple(f"{name}." for name in names)
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema in names or column.path_in_schema.startswith(nested):
                    yield column.total_uncompressed_size

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what pyarrow raises into one message."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise UsageError(f"{self.path}: not a file of Parquet that can be read ({line(str(error))[:300]}).") from None


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether the values of a column are text, numbers, dates, or true and false."""
    from pyarrow import types

    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_date, types.is_timestamp)
    if types.is_dictionary(kind):
        kind = kind.value_type
    return _is_text(kind) or types.is_null(kind) or any(check(kind) for check in plain)


def _is_known_zone(kind: pa.DataType) -> bool:
    """Return whether times of this type become values of Python. True for what has no zone."""
    import pyarrow as pa

    try:
        pa.scalar(0, kind).as_py() if isinstance(kind, pa.TimestampType) and kind.tz else None
    except (pa.ArrowException, ValueError, KeyError):
        return False
    return True


def _values(column: pa.Array) -> Sequence[Any]:
    """Return the cells as values of Python. A text that many rows have is one object."""
    import pyarrow as pa

    if not isinstance(column, pa.DictionaryArray):
        return column.to_pylist()
    values = column.dictionary.to_pylist()
    return [None if index is None else values[index] for index in column.indices.to_pylist()]
