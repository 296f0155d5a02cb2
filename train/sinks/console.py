"""The live view in a terminal: what is trained, two lines that move, and the summary.

It has no thread of its own, which would compete with the training: the view is drawn from `progress` and `record`.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.number_text import duration, number, percent
from train.sinks.progress import RunProgress
from train.sinks.run_text import SummaryRow, header_lines, outcome_line, summary_rows, tensorboard_command

_REFRESH_S = 0.25
_MARGIN = 3  # free columns at the right: the terminal's own "^C" must not break the line
_BAR_MIN, _BAR_MAX, _FAR_WIDTH = 6, 60, len("100 %  epoch 100.0/100  0:00:00 left")
_STYLES: Mapping[str, str] = {"info": "", "warning": "yellow", "error": "bold red"}
_STATUS_STYLES: Mapping[str, str] = {
    "done": "bold green",
    "diverged": "bold red",
    "interrupted": "bold yellow",
    "failed": "bold red",
}


class ConsoleSink(Sink):
    """`console`: the terminal; `clock`: seconds on a steady clock. The cursor stays visible throughout, so that even a
    killed run leaves the terminal as it was."""

    name = "the terminal view"

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._drawn_at = clock()
        self._pace: RunProgress | None = None
        self._live: Live | None = None

    def start(self, info: RunInfo) -> None:
        self._pace = RunProgress(info)
        title, *lines, folder = header_lines(info)
        self._print(title, "bold")
        for line in lines:
            self._print(line)
        self._whole(folder, "dim")

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if self._pace is None:
            return
        now = self._clock()
        self._pace.update(now, step, epoch, values)
        if now - self._drawn_at >= _REFRESH_S:
            self._draw(self._pace, now)

    def record(self, record: Record) -> None:
        self.progress(record.step, record.epoch, record.values)

    def message(self, text: str, level: Level = "info") -> None:
        self._print(text if level == "info" else f"{level}: {text}", _STYLES[level])

    def finish(self, summary: Summary) -> None:
        if self._pace is not None and self._live is not None:
            self._draw(self._pace, self._clock())
        self.close()
        total = self._pace.info.total_steps if self._pace is not None else summary.steps
        self._console.print()
        self._print(outcome_line(summary), _STATUS_STYLES[summary.status])
        plus_minus = "±" if self._console.encoding.startswith("utf") else "+-"
        self._console.print(_table(summary_rows(summary, total, plus_minus), self._console.width))
        self._whole(f"folder: {summary.folder}")
        self._whole(f"look at it: {tensorboard_command(summary)}")

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _draw(self, pace: RunProgress, now: float) -> None:
        self._drawn_at = now
        if self._live is None:
            # Only what would land in this terminal passes through the view; a redirected stream stays where it goes.
            stdout, stderr = self._console.file is sys.stdout, sys.stderr.isatty()
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=stdout, redirect_stderr=stderr)
            self._live.start()
            self._console.show_cursor(True)
        self._live.update(live_view(pace, self._console.width - _MARGIN), refresh=True)

    def _print(self, text: str, style: str = "") -> None:
        """Wraps at spaces only: a path or an address longer than the terminal is wide can still be copied."""
        for line in text.splitlines():
            parts = textwrap.wrap(line, max(self._console.width, 20), break_long_words=False, break_on_hyphens=False)
            for part in parts or [""]:
                self._whole(part, style)

    def _whole(self, text: str, style: str = "") -> None:
        """One line without line breaks of ours."""
        self._console.print(Text(text, style), soft_wrap=True)


def live_view(pace: RunProgress, width: int) -> Group:
    """The two lines that move, in at most `width` columns: how far, and how well. What does not fit is left out, the least
    important first."""
    far = _fit(_how_far(pace), width)
    # Room for the longest that `far` is likely to become: the bar should not jump.
    bar_width = min(width - max(len(far), _FAR_WIDTH) - 2, _BAR_MAX)
    line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    if bar_width >= _BAR_MIN:
        line.add_row(ProgressBar(total=1.0, completed=pace.fraction, width=bar_width), Text(far, no_wrap=True))
    else:
        line.add_row(Text(far, no_wrap=True))
    return Group(line, Text(_fit(_how_well(pace), width), no_wrap=True, overflow="crop"))


def _how_far(pace: RunProgress) -> list[tuple[int, str]]:
    epochs = f"{pace.info.epochs:g}"
    left = f"{duration(pace.remaining_s)} left" if pace.remaining_s is not None else ""
    return [(1, f"{100 * pace.fraction:3.0f} %"), (0, f"epoch {pace.epoch:{len(epochs) + 2}.1f}/{epochs}"), (0, left)]


def _how_well(pace: RunProgress) -> list[tuple[int, str]]:
    fields = [(3, f"step {pace.step:,}/{pace.info.total_steps:,}")]
    if "loss/train" in pace.values:
        fields.append((0, f"loss {number(pace.values['loss/train'])}"))
    if "accuracy/train" in pace.values:
        fields.append((2, f"train {percent(pace.values['accuracy/train'])}"))
    if "accuracy/val" in pace.values:
        fields.append((1, f"val {percent(pace.values['accuracy/val'])}"))
    if pace.images_per_s is not None:
        fields.append((4, f"{pace.images_per_s:,.0f} img/s"))
    return fields


def _fit(fields: list[tuple[int, str]], width: int) -> str:
    """The fields (rank, text) side by side; those of the highest rank go first where there is no room."""
    kept = [field for field in fields if field[1]]
    while len(kept) > 1 and len("  ".join(text for _, text in kept)) > width:
        kept.remove(max(kept, key=lambda field: field[0]))
    return "  ".join(text for _, text in kept)[: max(width, 0)]


def _table(lines: list[SummaryRow], width: int) -> Table:
    label_width = max(len(row.label) for row in lines)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in lines:
        room = width - label_width - len(row.value) - 4
        detail = f"  {row.detail}" if row.detail and len(row.detail) <= room else ""
        style = "bold" if row.label.endswith("accuracy") else ""
        table.add_row(Text(row.label, "cyan"), Text(row.value, style).append(detail, "dim"))
    return table
