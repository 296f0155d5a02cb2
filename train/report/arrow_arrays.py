"""Arrow's arrays from Python's values.

They are made of NumPy's buffers: `pyarrow.array` imports pandas where it is installed, which takes 50 MB and 0.3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_EPOCH, _UNIT = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LONGEST = (1 << 31) - 1
"""Bytes of all texts of an array together, as their places are numbers of 32 bits."""


def array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """Return the values, None for unknown ones. `kind`: of text, whole numbers, floats, flags, or microseconds since 1970."""
    known = None if None not in values else np.asarray([value is not None for value in values], dtype=np.bool_)
    if kind == pa.string():
        return _texts(values, known)
    if kind == pa.bool_():
        return _of_buffers(kind, len(values), known, _bits(np.asarray([bool(value) for value in values], dtype=np.bool_)))
    if kind == pa.float64():
        return of_numbers(np.asarray([0.0 if value is None else value for value in values], dtype=np.float64), kind, known)
    whole = ((value - _EPOCH) // _UNIT if isinstance(value, datetime) else value or 0 for value in values)
    return of_numbers(np.asarray([*whole], dtype=np.int64), kind, known)


def of_numbers(numbers: NDArray[Any], kind: pa.DataType, known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers of the same width as `kind`, without copying them. `known`: which of them are; None if all are."""
    return _of_buffers(kind, len(numbers), known, pa.py_buffer(np.ascontiguousarray(numbers)))


def _texts(values: Sequence[str | None], known: NDArray[np.bool_] | None) -> pa.Array:
    encoded = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > _LONGEST:
        raise ValueError(f"texts of {ends[-1]:,} bytes are too long for a column")
    return _of_buffers(pa.string(), len(values), known, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(encoded)))


def _of_buffers(kind: pa.DataType, length: int, known: NDArray[np.bool_] | None, *buffers: pa.Buffer) -> pa.Array:
    return pa.Array.from_buffers(kind, length, [None if known is None else _bits(known), *buffers])


def _bits(flags: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
