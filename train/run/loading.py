"""Shows how far the loading of a data set is, here or in the process that asked for it. Imports no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from train.progress import told_to
from train.sinks.loading import loading_view

EVERY_S = 0.25


@contextmanager
def loading_shown() -> Iterator[None]:
    """Show on standard output how far data sets are that are loaded inside the context."""
    with loading_view(sys.stdout) as tell, told_to(tell):
        yield


@contextmanager
def loading_relayed(send: Callable[[tuple[str, int, int]], None]) -> Iterator[None]:
    """Send how far data sets are that are loaded inside the context, a few times a second."""
    due = 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY_S
            send((what, done, total))

    with told_to(tell):
        yield
