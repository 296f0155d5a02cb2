"""How far the work on a data set is, told to whoever shows it. Without one, nothing is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Tell: TypeAlias = Callable[[str, int, int], None]
"""tell(what is done, files that are done, files in all): 0 in all where that is unknown."""

_tell: Tell | None = None


@contextmanager
def told_to(tell: Tell) -> Iterator[None]:
    """Call `tell` for the work on data sets inside the block, in this process."""
    global _tell
    before, _tell = _tell, tell
    try:
        yield
    finally:
        _tell = before


def step(what: str, done: int, total: int = 0) -> None:
    """Tell how far the work is."""
    if _tell is not None:
        _tell(what, done, total)
