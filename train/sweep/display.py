"""The display of a running sweep: a live table in a terminal, one line per start and end elsewhere.

The table fits every terminal: running jobs, as many of the last ended ones as there is space for, and the counts of all jobs.
Every job that did not end as `done` also gets a line of its own, which stays. Accuracies are those of the validation split while
the sweep goes on: what single runs reach on the test split, seen before the others, invites to stop by it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from train.command import TO_RESUME
from train.naming import BASELINE
from train.sinks.console import shown
from train.sinks.lines import line_writer
from train.sweep.progress import JobRow, Split, State, remaining_s, shown_split, state_counts
from train.text import duration, percent, plural

Level = Literal["info", "warning", "error"]
STYLES: dict[State, str] = {
    "waiting": "dim",
    "running": "",
    "done": "green",
    "diverged": "magenta",
    "failed": "bold red",
    "interrupted": "yellow",
    "not started": "dim",
}
WORDS: dict[Split, str] = {"val": "validation", "train": "training"}
MAX_TABLE_LINES = 24
"""Largest height of the table: hundreds of rows are less readable than their counts."""
GAP = 2
"""Columns between two columns of the table."""
LEAST_WIDTHS = {"state": len("starting"), "time": len("0:00"), "left": len("0:00")}
"""So that the table keeps its columns while runs start and end."""
WIDE_COLUMNS = 100
"""Terminal width in columns from which the table shows steps and devices."""


class Display(Protocol):
    """The interface that the pool reports to; it calls `update` several times a second."""

    def open(self, folder: Path, rows: Sequence[JobRow], allocation: str) -> None: ...

    def job_started(self, row: JobRow) -> None: ...

    def job_ended(self, row: JobRow, now: float) -> None: ...

    def message(self, text: str, level: Level = "warning") -> None: ...

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None: ...

    def close(self) -> None: ...


def display_for(stream: TextIO) -> Display:
    """Return a live table if `stream` is a terminal that can move its cursor, else one line per event."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return LineDisplay(line_writer(stream))
    return LiveDisplay(Console(file=stream, highlight=False, markup=False))


class LineDisplay(Display):
    """A display that writes one line when a job starts and one when it ends."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._count = 0

    def open(self, folder: Path, rows: Sequence[JobRow], allocation: str) -> None:
        self._count = len(rows)
        self._write(header_line(rows, allocation))
        self._write(f"folder: {folder}")

    def job_started(self, row: JobRow) -> None:
        attempt = f", attempt {row.attempt}" if row.attempt > 1 else ""
        self._write(f"[{row.number}/{self._count}] running {row.label} ({row.device}{attempt})")

    def job_ended(self, row: JobRow, now: float) -> None:
        self._write(f"[{row.number}/{self._count}] {job_line(row, now)}")

    def message(self, text: str, level: Level = "warning") -> None:
        self._write(text if level == "info" else f"{level}: {text}")

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None: ...

    def close(self) -> None: ...


class LiveDisplay(Display):
    """A table that is redrawn at every update. The cursor stays visible, so that a killed sweep does not leave it hidden."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def open(self, folder: Path, rows: Sequence[JobRow], allocation: str) -> None:
        self._console.print(shown(header_line(rows, allocation), "bold"))
        self._console.print(shown(f"folder: {folder}", "dim"), soft_wrap=True)
        self._live.start()
        self._console.show_cursor(True)

    def job_started(self, row: JobRow) -> None: ...

    def job_ended(self, row: JobRow, now: float) -> None:
        if row.state != "done":
            self._console.print(shown(f"{row.number}: {job_line(row, now)}", STYLES[row.state]))

    def message(self, text: str, level: Level = "warning") -> None:
        self._console.print(shown(text, {"info": "", "warning": "yellow", "error": "bold red"}[level]))

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None:
        width, height = self._console.size
        self._live.update(render_table(rows, slots, now, width, min(MAX_TABLE_LINES, height - 4)), refresh=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be closed
            self._live.stop()


def header_line(rows: Sequence[JobRow], allocation: str) -> str:
    return f"{plural(len(rows), 'run')}, {allocation}"


def job_line(row: JobRow, now: float) -> str:
    """Return one line on how a job ended: state, label, duration, accuracy, reason."""
    split: Split = "val" if "val" in row.accuracies else "train"
    accuracy = f", {WORDS[split]} accuracy {percent(row.accuracies[split])}" if split in row.accuracies else ""
    reason = f": {row.reason.partition(TO_RESUME)[0]}" if row.reason else ""  # the sweep prints its own command to resume
    after = f" after {row.seconds(now):.1f} s{accuracy}" if row.has_started else ""
    return f"{row.state} {row.label}{after}{reason}"


def render_table(rows: Sequence[JobRow], slots: int, now: float, width: int, height: int) -> RenderableType:
    """Return the table in at most `height` lines and, below it, the counts."""
    wide = width >= WIDE_COLUMNS
    split = shown_split(rows)
    headers = ["", "run", "state", *(["step", "device"] if wide else []), f"{split} acc", "time", "left"]
    visible = visible_rows(rows, max(1, height - 1))
    columns = zip(headers, *(row_cells(row, split, now, wide) for row in visible), strict=True)
    others = (max(LEAST_WIDTHS.get(cells[0], 0), *map(len, cells)) for cells in columns if cells[0] != "run")
    label_width = max(8, width - sum(others) - GAP * (len(headers) - 1))
    labels = shortened([row.label for row in rows], label_width)
    table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False, expand=False)
    for header in headers:
        right = header not in ("run", "state", "device")
        max_width = label_width if header == "run" else None
        table.add_column(justify="right" if right else "left", no_wrap=True, overflow="ellipsis", max_width=max_width)
    table.add_row(*(shown(header, "dim") for header in headers))
    for row in visible:
        cells = row_cells(replace(row, label=labels[row.label]), split, now, wide)
        table.add_row(*(shown(cell, STYLES[row.state]) for cell in cells))
    return Group(table, shown(footer_line(rows, slots, now), "bold", no_wrap=True, overflow="ellipsis"))


def shortened(labels: Sequence[str], width: int) -> dict[str, str]:
    """Return, by label, all labels in at most `width` characters, in one form: the first that fits and tells all of them apart.

    Keys but the seeds lose their groups, then go, as does the baseline's mark. Else long labels are cut before the last word.
    """
    forms = ([" ".join(filter(None, map(form, label.split()))) for label in labels] for form in _FORMS)
    fitting = (texts for texts in forms if max(map(len, texts)) <= width and len(set(texts)) == len(set(labels)))
    texts = next(fitting, None) or [_cut(label, width) for label in labels]
    return dict(zip(labels, texts, strict=True))


def _value(word: str) -> str:
    return word if word.startswith("seed") else word.partition("=")[2] or word


_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda word: re.sub(r"^(?!seed)[^=]*\.(?=[^=]*=)", "", word),
    _value,
    lambda word: "" if word == f"({BASELINE})" else _value(word),
)
"""How words of a label are shown, from the longest form to the shortest."""


def _cut(label: str, width: int) -> str:
    last = label.rpartition(" ")[2]
    room = width - len(last) - 2
    return label if len(label) <= width or room < 4 else f"{label[:room].rstrip()}… {last}"


def visible_rows(rows: Sequence[JobRow], limit: int) -> list[JobRow]:
    """Return all rows if they fit into `limit`; else the running, the next and the last ended ones, in the order of the sweep."""
    if len(rows) <= limit:
        return list(rows)
    running = [row for row in rows if row.state == "running"][:limit]
    upcoming = [row for row in rows if row.state == "waiting"][: min(2, limit - len(running))]
    ended = sorted((row for row in rows if row.has_ended), key=lambda row: row.ended_at)
    visible = running + upcoming
    visible += ended[len(ended) - min(len(ended), limit - len(visible)) :]
    return sorted(visible, key=lambda row: row.number)


def row_cells(row: JobRow, split: Split, now: float, wide: bool) -> list[str]:
    fraction = row.fraction if row.state == "running" else None
    state = percent(fraction, 0) if fraction is not None else "starting" if row.state == "running" else row.state
    steps = f"{row.step:,}/{row.total_steps:,}" if row.total_steps is not None else ""
    accuracy = percent(row.accuracies[split]) if split in row.accuracies else ""
    time = duration(row.seconds(now)) if row.has_started else ""
    left = duration(row.remaining_s) if row.remaining_s is not None and row.state == "running" else ""
    return [str(row.number), row.label, state, *([steps, row.device] if wide else []), accuracy, time, left]


def footer_line(rows: Sequence[JobRow], slots: int, now: float) -> str:
    """Return the counts and the time left, as in `12 done, 1 failed, 2 running, 185 waiting; 0:42:10 left`."""
    text = ", ".join(f"{count} {state}" for state, count in state_counts(rows).items())
    left = remaining_s(rows, slots, now) if any(row.state in ("running", "waiting") for row in rows) else None
    return f"{text}; {duration(left)} left" if left is not None else text
