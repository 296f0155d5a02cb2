"""How a sweep shows itself: a live table in a terminal, one line per start and end elsewhere.

The table fits every terminal: running jobs first, then as many of those that ended last as there is room for, and the counts of
all. What went wrong is also said in a line of its own, which stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from train.sinks.lines import line_writer
from train.sinks.number_text import duration, percent
from train.sweep.progress import JobRow, State, remaining_s, state_counts

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
TABLE_LINES = 24
"""Most rows of the table: a list of hundreds tells less than its counts."""
WIDE = 100
"""From this many columns on there is room for steps and devices."""


class Display(Protocol):
    """Told of everything; `update` is called several times a second."""

    def open(self, folder: Path, rows: Sequence[JobRow], places: str) -> None: ...

    def job_started(self, row: JobRow) -> None: ...

    def job_ended(self, row: JobRow, now: float) -> None: ...

    def message(self, text: str, level: Level = "warning") -> None: ...

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None: ...

    def close(self) -> None: ...


def display_for(stream: TextIO) -> Display:
    """The live table where `stream` is a terminal that can move its cursor."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return LineDisplay(line_writer(stream))
    return LiveDisplay(Console(file=stream, highlight=False, markup=False))


class LineDisplay(Display):
    """One line when a job starts, and one when it ends."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._count = 0

    def open(self, folder: Path, rows: Sequence[JobRow], places: str) -> None:
        self._count = len(rows)
        self._write(header_line(rows, places))
        self._write(f"folder: {folder}")

    def job_started(self, row: JobRow) -> None:
        again = f", attempt {row.attempt}" if row.attempt > 1 else ""
        self._write(f"[{row.number}/{self._count}] running {row.label} ({row.device}{again})")

    def job_ended(self, row: JobRow, now: float) -> None:
        self._write(f"[{row.number}/{self._count}] {job_line(row, now)}")

    def message(self, text: str, level: Level = "warning") -> None:
        self._write(text if level == "info" else f"{level}: {text}")

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None: ...

    def close(self) -> None: ...


class LiveDisplay(Display):
    """A table that is drawn again at every update. The cursor stays visible, so that even a killed sweep leaves it so."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def open(self, folder: Path, rows: Sequence[JobRow], places: str) -> None:
        self._console.print(Text(header_line(rows, places), "bold"))
        self._console.print(Text(f"folder: {folder}", "dim"), soft_wrap=True)
        self._live.start()
        self._console.show_cursor(True)

    def job_started(self, row: JobRow) -> None: ...

    def job_ended(self, row: JobRow, now: float) -> None:
        if row.state != "done":
            self._console.print(Text(f"{row.number}: {job_line(row, now)}", STYLES[row.state]))

    def message(self, text: str, level: Level = "warning") -> None:
        self._console.print(Text(text, {"info": "", "warning": "yellow", "error": "bold red"}[level]))

    def update(self, rows: Sequence[JobRow], slots: int, now: float) -> None:
        width, height = self._console.size
        self._live.update(render_table(rows, slots, now, width, min(TABLE_LINES, height - 4)), refresh=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._live.stop()


def header_line(rows: Sequence[JobRow], places: str) -> str:
    jobs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    return f"{jobs}, {places}"


def job_line(row: JobRow, now: float) -> str:
    """What became of a job."""
    measured = f", {row.accuracy_of} accuracy {percent(row.accuracy)}" if row.accuracy is not None else ""
    reason = f": {row.reason.partition('; to go on')[0]}" if row.reason else ""  # how to go on is the sweep's to say
    after = f" after {row.seconds(now):.1f} s{measured}" if row.started else ""
    return f"{row.state} {row.label}{after}{reason}"


def render_table(rows: Sequence[JobRow], slots: int, now: float, width: int, height: int) -> RenderableType:
    """The table in at most `height` lines and, below it, the counts."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=False)
    wide = width >= WIDE
    heads = ["", "run", "state", *(["step", "device"] if wide else []), "accuracy", "time", "left"]
    for head in heads:
        right = head in ("", "step", "accuracy", "time", "left")
        room = max(8, width - (74 if wide else 44)) if head == "run" else None
        table.add_column(justify="right" if right else "left", no_wrap=True, overflow="ellipsis", max_width=room)
    table.add_row(*(Text(head, "dim") for head in heads))
    for row in visible_rows(rows, max(1, height - 1)):
        table.add_row(*(Text(cell, STYLES[row.state]) for cell in cells(row, now, wide)))
    return Group(table, Text(footer_line(rows, slots, now), "bold", no_wrap=True, overflow="ellipsis"))


def visible_rows(rows: Sequence[JobRow], most: int) -> list[JobRow]:
    """All where there is room; else those that run, those that ended last and those that come next, in the order of the sweep."""
    if len(rows) <= most:
        return list(rows)
    running = [row for row in rows if row.state == "running"][:most]
    coming = [row for row in rows if row.state == "waiting"][: min(2, most - len(running))]
    ended = sorted((row for row in rows if row.has_ended), key=lambda row: row.ended_at)
    kept = running + coming
    kept += ended[len(ended) - min(len(ended), most - len(kept)) :]
    return sorted(kept, key=lambda row: row.number)


def cells(row: JobRow, now: float, wide: bool) -> list[str]:
    fraction = row.fraction if row.state == "running" else None
    state = f"{100 * fraction:.0f} %" if fraction is not None else "starting" if row.state == "running" else row.state
    steps = f"{row.step:,}/{row.total:,}" if row.total is not None else ""
    accuracy = percent(row.accuracy) if row.accuracy is not None else ""
    time = duration(row.seconds(now)) if row.started else ""
    left = duration(row.remaining_s) if row.remaining_s is not None and row.state == "running" else ""
    return [str(row.number), row.label, state, *([steps, row.device] if wide else []), accuracy, time, left]


def footer_line(rows: Sequence[JobRow], slots: int, now: float) -> str:
    """`12 done, 1 failed, 2 running, 185 waiting; 0:42:10 left`."""
    text = ", ".join(f"{count} {state}" for state, count in state_counts(rows).items())
    left = remaining_s(rows, slots, now) if any(row.state in ("running", "waiting") for row in rows) else None
    return f"{text}; {duration(left)} left" if left is not None else text
