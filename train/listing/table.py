"""What the table of a terminal shows: a row for each run of its own and for each sweep, or for each run."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from train.listing.found import Found, arm_names_of
from train.listing.layout import table_text
from train.store.kinds import is_number
from train.store.manifest import Manifest
from train.store.metrics import last_record
from train.store.notes import Notes, notes_of
from train.store.overrides import text
from train.store.run import FINISHED, Run
from train.store.values import MISSING, size_of, time_of, value_of
from train.text import duration, percent, plural, size

METRICS = ("accuracy/test", "accuracy/val")
HEADS = ("status", "age", "time", "size", *METRICS, "n", "seed", "arm", "run", "note")
CUT = ("arm", "run", "note")
_STATES = ("done", "diverged", "failed", "lost", "incomplete", "interrupted", "running", "queued")
_RANGE = "\N{EN DASH}"


@dataclass(frozen=True)
class Row:
    """A line of the table. `value`: what it is sorted by."""

    cells: Sequence[str]
    started: str
    value: Any = MISSING


def rows_of_runs(found: Found, runs: Sequence[Run], more: Sequence[str], sort: str) -> list[Row]:
    """Return a row for each of `runs`. `more`: keys with a column of their own; `sort`: the key to sort by, or empty."""
    arms = arm_names_of(found)
    return [_row_of_run(run, found, arms[run.folder], more, value_of(run, sort) if sort else MISSING) for run in runs]


def rows_of_sweeps(found: Found) -> list[Row]:
    """Return a row for each sweep, and for each run that is in none."""
    alone = [run for run in found.runs if found.sweep_of(run) is None]
    inside: dict[Path, list[Run]] = {folder: [] for folder in found.sweeps}
    for run in found.runs:
        inside.get(run.folder.parent, []).append(run)
    sweeps = [_row_of_sweep(folder, found, runs) for folder, runs in inside.items()]
    return [*sweeps, *rows_of_runs(found, alone, (), "")]


def in_order(rows: Sequence[Row], sort: str, reverse: bool) -> list[Row]:
    """Return the rows by the key they are sorted by, ascending, those without a value last; by start, newest first, without."""
    if not sort:
        return sorted(rows, key=lambda row: row.started, reverse=not reverse)
    known, unknown = ([row for row in rows if (_order(row.value) is None) is missing] for missing in (False, True))
    return [*sorted(known, key=lambda row: _order(row.value), reverse=reverse), *unknown]


def _order(value: Any) -> Any:
    """Return a sort key, None for no value: numbers come before text."""
    if value is MISSING or (is_number(value) and math.isnan(value)):
        return None
    return (0, value, "") if is_number(value) else (1, 0, text(value))


def as_text(rows: Sequence[Row], more: Sequence[str] = (), width: int | None = None) -> str:
    """Return the table as text."""
    return table_text((*HEADS[:-3], *more, *HEADS[-3:]), [row.cells for row in rows], CUT, width)


def _row_of_run(run: Run, found: Found, arm: str, more: Sequence[str], value: Any) -> Row:
    took, started = time_of(run), run.status.get("started") or ""
    examples = run.summary.get("test_examples")
    cells = [
        f"{run.state}{_progress(run)}",
        age(started),
        "" if took is None else duration(took),
        size(size_of(run.folder)),
        *(shown(tag, value_of(run, tag)) for tag in METRICS),
        f"{examples:,} images" if is_number(examples) and run.state == "done" else "",
        str(run.seed),
        *(shown(key, value_of(run, key)) for key in more),
        arm,
        place(run.folder, found),
        notes_text(notes_of(run.folder)),
    ]
    return Row(cells, started, value)


def _row_of_sweep(folder: Path, found: Found, runs: Sequence[Run]) -> Row:
    manifest, notes = found.sweeps[folder], notes_text(notes_of(folder))
    starts = [start for run in runs if (start := run.status.get("started"))]
    started, took = min(starts, default=""), [time for run in runs if (time := time_of(run)) is not None]
    means, counts = zip(*(_means(runs, tag) for tag in METRICS), strict=True)
    cells = [
        _states(runs, manifest),
        age(started),
        duration(sum(took)) if took else "",
        size(size_of(folder)),
        *((means[0], "") if means[0] else means),
        counts[0] or counts[1],
        "",
        _arms_text(manifest, runs),
        f"{place(folder, found)}/",
        notes,
    ]
    return Row(cells, started)


def _states(runs: Sequence[Run], manifest: Manifest | None) -> str:
    counts = Counter(run.state for run in runs)
    planned = {run.identity for run in manifest.runs} - {run.identity for run in runs} if manifest else set()
    words = [f"{counts[state]} {state}" for state in _STATES if counts[state]]
    return ", ".join([*words, *([f"{len(planned)} missing"] if planned else [])]) or "no runs"


def _arms_text(manifest: Manifest | None, runs: Sequence[Run]) -> str:
    if manifest is None:
        return f"{plural(len({run.arm for run in runs}), 'arm')} (sweep.json cannot be read)"
    axes = ", ".join(f"{key}={','.join(levels)}" for key, levels in manifest.axes.items())
    return f"{plural(len(manifest.arms), 'arm')}: {manifest.study or axes}"


def _means(runs: Sequence[Run], tag: str) -> tuple[str, str]:
    """Return the range of the means of the arms, and the numbers of their runs."""
    values: dict[str, list[float]] = {}
    for run in runs:
        if run.state == "done" and is_number(value := value_of(run, tag)) and math.isfinite(value):
            values.setdefault(run.arm, []).append(value)
    means, counts = sorted(map(statistics.fmean, values.values())), sorted(map(len, values.values()))
    if not means:
        return "", ""
    return _range([shown(tag, mean) for mean in (means[0], means[-1])]), f"{_range([str(counts[0]), str(counts[-1])])} runs"


def _range(ends: Sequence[str]) -> str:
    low, high = ends
    return low if low == high else f"{low.removesuffix(' %') if high.endswith(' %') else low}{_RANGE}{high}"


def _progress(run: Run) -> str:
    """Return how far a run has come that has not ended, such as ` 45 %`."""
    total = run.status.get("total_steps")
    if run.state in FINISHED or not is_number(total) or not total or (record := last_record(run.metrics_file)) is None:
        return ""
    return f" {100 * min(record.step / total, 1):.0f} %"


def shown(key: str, value: Any) -> str:
    """Return a value of a run as text: accuracies in percent, other numbers with four digits; empty where there is none."""
    if value is MISSING or value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, float):
        return percent(value, 2) if "accuracy" in key else f"{value:.4g}"
    return text(value)


def place(folder: Path, found: Found) -> str:
    """Return a folder as a command names it: below the only folder that is listed without the name of that."""
    (top, *others) = found.folders
    return str(folder) if others or folder == top else str(folder.relative_to(top))


def notes_text(notes: Notes) -> str:
    """Return what was said of a run or sweep in one line: `#tag a note (archived)`."""
    words = [*(f"#{tag}" for tag in notes.tags), notes.note, "(archived)" if notes.archived else ""]
    return " ".join(filter(None, words))


def age(started: str, clock: Callable[[], float] = time.time) -> str:
    """Return how long ago a stored time was: `45 s`, `12 min`, `3 h`, `5 d`; empty for a text that is no time."""
    try:
        seconds = clock() - datetime.strptime(started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):
        return ""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 36)):
        if seconds < most * length:
            return f"{max(seconds, 0) / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
