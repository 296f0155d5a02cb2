"""The live view in a terminal: a header, two progress lines and the summary.

The view is drawn from `progress` and `record`: a thread of its own would compete with the training.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from train import escape
from train.command import tensorboard_command
from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.progress import RunProgress
from train.sinks.run_text import SummaryRow, header_lines, outcome_lines, summary_rows
from train.text import duration, number, percent

_REFRESH_S = 0.25
_MARGIN = 3  # free columns at the right, so that the terminal's "^C" does not wrap the line
_BAR_MIN, _BAR_MAX, _POSITION_WIDTH = 6, 60, len("100 %  epoch 100.0/100  0:00:00 left")
_STYLES: Mapping[str, str] = {"info": "", "warning": "yellow", "error": "bold red"}
_STATUS_STYLES: Mapping[str, str] = {
    "done": "bold green",
    "diverged": "bold red",
    "interrupted": "bold yellow",
    "failed": "bold red",
}


class ConsoleSink(Sink):
    """Shows a run in a terminal. `console`: the terminal; `clock`: seconds of a monotonic clock.

    The cursor stays visible throughout, so that even a killed run leaves the terminal intact.
    """

    name = "the terminal view"

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._drawn_at = clock()
        self._progress: RunProgress | None = None
        self._live: Live | None = None

    def start(self, info: RunInfo) -> None:
        self._progress = RunProgress(info)
        title, *lines, folder = header_lines(info)
        self._print(title, "bold")
        for line in lines:
            self._print(line)
        self._print_line(folder, "dim")

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if self._progress is None:
            return
        now = self._clock()
        self._progress.update(now, step, epoch, values)
        if now - self._drawn_at >= _REFRESH_S:
            self._draw(self._progress, now)

    def record(self, record: Record) -> None:
        self.progress(record.step, record.epoch, record.values)

    def message(self, text: str, level: Level = "info") -> None:
        self._print(text if level == "info" else f"{level}: {text}", _STYLES[level])

    def finish(self, summary: Summary) -> None:
        if self._progress is not None and self._live is not None:
            self._draw(self._progress, self._clock())
        self.close()
        total = self._progress.info.total_steps if self._progress is not None else summary.steps
        self._console.print()
        outcome, *commands = outcome_lines(summary)
        self._print(outcome, _STATUS_STYLES[summary.status])
        plus_minus = "±" if self._console.encoding.startswith("utf") else "+-"
        self._console.print(_table(summary_rows(summary, total, plus_minus), self._console.width))
        for line in (*commands, f"folder: {summary.folder}", f"view: {tensorboard_command(summary.folder.parent)}"):
            self._print_line(line)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _draw(self, progress: RunProgress, now: float) -> None:
        self._drawn_at = now
        if self._live is None:
            # Route only output that goes to this terminal through the view; redirected streams stay untouched.
            stdout, stderr = self._console.file is sys.stdout, sys.stderr.isatty()
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=stdout, redirect_stderr=stderr)
            self._live.start()
            self._console.show_cursor(True)
        self._live.update(live_view(progress, self._console.width - _MARGIN), refresh=True)

    def _print(self, text: str, style: str = "") -> None:
        """Print `text`, wrapped at spaces only, so that a path or URL wider than the terminal can be copied."""
        for line in escape.terminal(text).splitlines():
            parts = textwrap.wrap(line, max(self._console.width, 20), break_long_words=False, break_on_hyphens=False)
            for part in parts or [""]:
                self._print_line(part, style)

    def _print_line(self, text: str, style: str = "") -> None:
        """Print one line without inserting line breaks."""
        self._console.print(shown(text, style), soft_wrap=True)


def shown(text: str, style: str = "", **options: Any) -> Text:
    """Return text for a terminal in this style, on one line, with all its characters shown. Nothing else makes any."""
    return Text(escape.line(text), style, **options)


def live_view(progress: RunProgress, width: int) -> Group:
    """Return the two progress lines, position and metrics, in at most `width` columns.

    Fields that do not fit are dropped, the least important first.
    """
    position = _fit(_position(progress), width)
    # Reserve the widest likely position text, so that the bar does not jump.
    bar_width = min(width - max(len(position), _POSITION_WIDTH) - 2, _BAR_MAX)
    line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    if bar_width >= _BAR_MIN:
        line.add_row(ProgressBar(total=1.0, completed=progress.fraction, width=bar_width), shown(position, no_wrap=True))
    else:
        line.add_row(shown(position, no_wrap=True))
    return Group(line, shown(_fit(_metrics(progress), width), no_wrap=True, overflow="crop"))


def _position(progress: RunProgress) -> list[tuple[int, str]]:
    epochs = f"{progress.info.epochs:g}"
    left = f"{duration(progress.remaining_s)} left" if progress.remaining_s is not None else ""
    return [(1, f"{percent(progress.fraction, 0):>5}"), (0, f"epoch {progress.epoch:{len(epochs) + 2}.1f}/{epochs}"), (0, left)]


def _metrics(progress: RunProgress) -> list[tuple[int, str]]:
    fields = [(3, f"step {progress.step:,}/{progress.info.total_steps:,}")]
    if "loss/train" in progress.values:
        fields.append((0, f"loss {number(progress.values['loss/train'])}"))
    if "accuracy/train" in progress.values:
        fields.append((2, f"train {percent(progress.values['accuracy/train'])}"))
    if "accuracy/val" in progress.values:
        fields.append((1, f"val {percent(progress.values['accuracy/val'])}"))
    if progress.images_per_s is not None:
        fields.append((4, f"{progress.images_per_s:,.0f} img/s"))
    return fields


def _fit(fields: list[tuple[int, str]], width: int) -> str:
    """Join the fields (rank, text); drop those of the highest rank first until they fit `width`."""
    kept = [field for field in fields if field[1]]
    while len(kept) > 1 and len("  ".join(text for _, text in kept)) > width:
        kept.remove(max(kept, key=lambda field: field[0]))
    return "  ".join(text for _, text in kept)[: max(width, 0)]


def _table(rows: list[SummaryRow], width: int) -> Table:
    label_width = max(len(row.label) for row in rows)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        space = width - label_width - len(row.value) - 4
        detail = f"  {row.detail}" if row.detail and len(row.detail) <= space else ""
        style = "bold" if row.label.endswith("accuracy") else ""
        table.add_row(shown(row.label, "cyan"), shown(row.value, style).append(escape.line(detail), "dim"))
    return table
