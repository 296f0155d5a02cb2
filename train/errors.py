"""The errors a user meets. Each is shown as one message without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something the user asked for cannot be done; known before training. Exit code 2.

    The message names the option, the value and the remedy.
    """

    exit_code = 2


class ShapeError(UsageError):
    """A layer cannot work on the shape it receives; raised in `forward`, where the pre-flight adds the layer's name."""


class RunError(Exception):
    """A run that had started could not go on, and a traceback would not help the user. Exit code 1."""

    exit_code = 1


class OutOfMemoryError(RunError):
    """Device or host had no memory left. Exit code 4. No batch is made smaller for it: that would change the experiment."""

    exit_code = 4


SIGNALLED = 128
"""Exit codes above this one are 128 + the number of the signal that ended the process, as shells report it."""


class Interrupted(KeyboardInterrupt):
    """A signal, whose number is `signal`, asked a run or a sweep to end, and it has ended in good order."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal

    @property
    def exit_code(self) -> int:
        return SIGNALLED + self.signal


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the `known` words, or lists them all when none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(choices)}." if choices else ""
