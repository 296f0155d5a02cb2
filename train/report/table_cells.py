"""The cells of a table of runs that somebody else made, as levels, seeds, numbers and states; one message for what is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from train.errors import UsageError
from train.escape import line
from train.report.metric import LARGEST
from train.report.read_table import quoted
from train.store.run import State

STATE = "state"
LONGEST_LEVEL = 1_000
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
"""What libraries write into a column of numbers where there is none."""
_FLAGS: Mapping[object, bool] = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}


def level_of(where: str, name: str, cell: Any) -> str:
    """Return the text of a cell that names an arm: 64 for 64.0, which pandas makes of whole numbers."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        cell = int(cell)
    text = "" if cell is None or cell != cell else str(cell).strip()
    if not text:
        raise UsageError(f"--arm {line(name)}: {where} has nothing in this column. Fill it in, or remove the row.")
    if len(text) > LONGEST_LEVEL:
        raise UsageError(f"--arm {line(name)}: {where} has {len(text):,} characters. Name a column of short names.")
    return text


def seed_of(where: str, name: str, cell: Any) -> int:
    try:
        if isinstance(cell, bool) or not re.fullmatch(r"[+-]?\d{1,20}(\.0*)?", str(cell)):
            raise ValueError
        return int(float(cell)) if isinstance(cell, float) else int(str(cell).partition(".")[0])
    except ValueError:
        problem = "nothing" if cell in (None, "") else quoted(cell)
        raise UsageError(f"--seed {line(name)}: {where} has {problem}, and a whole number is wanted.") from None


def number_of(where: str, name: str, cell: Any) -> float:
    """Return a finite number."""
    option, text = f"--metric {line(name)}: {where}", str(cell).strip()
    if cell is None or text.casefold() in _MISSING:
        raise UsageError(
            f"{option} has no number. Remove the row, or say in a column '{STATE}' what became of the run: diverged, failed, ..."
        )
    try:
        value = math.nan if isinstance(cell, bool) or "_" in text else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        hint = " Numbers have a point and no unit." if re.fullmatch(r"[-+\d.,% ]+", text) else ""
        raise UsageError(f"{option} has {quoted(text)}, and a finite number is wanted.{hint}")
    if abs(value) > LARGEST:
        raise UsageError(f"{option} has {quoted(text)}, and numbers up to {LARGEST:g} are compared. Scale the column.")
    return value


def state_of(where: str, cell: Any) -> State:
    """Return what became of a run; it is done if nothing says otherwise."""
    word = "" if cell is None else str(cell).strip()
    for state in get_args(State):
        if word in ("", state):
            return state if word else "done"
    known = ", ".join(get_args(State))
    raise UsageError(
        f"{where}: column '{STATE}' has {quoted(word)}. Known: {known}. Rename the column if it says something else."
    )


def flag_of(cell: Any) -> bool | None:
    return _FLAGS.get(cell) if isinstance(cell, bool | str) else None
