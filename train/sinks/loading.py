"""How far the loading of a data set is: a line that comes and goes in a terminal, elsewhere one now and then if it takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from train.progress import Tell
from train.sinks.lines import is_live, line_writer

SHOWN_AFTER_S, REFRESH_S = 0.5, 0.25
LINE_AFTER_S, LINE_EVERY_S = 3.0, 60.0
"""Where there is no terminal: when the first line comes, and every other one."""


def loading_text(what: str, done: int, total: int) -> str:
    """Return how far the work is: `data: hashing 12,000 of 100,000 files (12 %)`."""
    if total:
        return f"data: {what} {done:,} of {total:,} files ({100 * done // total} %)"
    return f"data: {what}" + (f" {done:,} files" if done else "")


class LoadingLine:
    """Writes a line once the work has taken some seconds, and another every minute."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._due = clock() + LINE_AFTER_S

    def tell(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now >= self._due:
            self._due = now + LINE_EVERY_S
            self._write(loading_text(what, done, total))

    def close(self) -> None:
        """Do nothing."""


class LoadingView:
    """Shows how far the work is in the last line of a terminal, and clears it in the end."""

    def __init__(self, console: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._due = clock() + SHOWN_AFTER_S
        self._live: Any = None

    def tell(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now < self._due:
            return
        from rich.live import Live

        from train.sinks.console import shown

        self._due = now + REFRESH_S
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
            self._console.show_cursor(True)
        self._live.update(shown(loading_text(what, done, total), "dim", no_wrap=True), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


@contextmanager
def loading_view(stream: TextIO) -> Iterator[Tell]:
    """Return, inside the context, a function that shows on `stream` how far the loading is."""
    if is_live(stream):
        from rich.console import Console

        view: LoadingView | LoadingLine = LoadingView(Console(file=stream, highlight=False, markup=False))
    else:
        view = LoadingLine(line_writer(stream))
    try:
        yield view.tell
    finally:
        view.close()
