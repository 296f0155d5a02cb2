"""The errors that a user sees. Each is shown as one message without a traceback."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UsageError(Exception):
    """A request that cannot be fulfilled, detected before training. Exit code 2.

    The message names the option, the value and the remedy.
    """

    exit_code = 2


class CompositionError(UsageError):
    """A configuration that has no values: one of them is missing, or refers to nothing."""


class ShapeError(UsageError):
    """An input shape that a layer cannot process. Raised in `forward`; the pre-flight check adds the layer's name."""


class RunError(Exception):
    """A failure of a running run for which a traceback would not help the user. Exit code 1."""

    exit_code = 1


CANNOT_DECODE = " cannot be decoded: "
"""What stands between the name of an image and the reason in the message of a run that failed on it."""


class OutOfMemoryError(RunError):
    """The device or host ran out of memory. Exit code 4. The batch size is never reduced: that would change the experiment."""

    exit_code = 4


SIGNALLED = 128
"""Exit codes above this are 128 + the number of the signal that ended the process, as in shells."""


class Interrupted(KeyboardInterrupt):
    """The orderly end of a run or sweep after the signal with the number `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal

    @property
    def exit_code(self) -> int:
        return SIGNALLED + self.signal


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest of the `candidates`, or lists them all if none is near."""
    choices = sorted(candidates)
    nearest = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Known: {', '.join(choices)}." if choices else ""


FEW_PROCESSES = (
    "The system allows no more processes, or has no memory for one: raise the limit (`ulimit -u`, or that of the container), "
    "or run fewer jobs at a time (hydra.launcher.jobs_per_device)."
)
FEW_FILES = (
    "Too many files are open: raise the limit (`ulimit -n`), or run fewer jobs at a time (hydra.launcher.jobs_per_device)."
)
FEW_OF_EITHER = FEW_PROCESSES.replace("processes,", "processes or open files,").replace("`ulimit -u`", "`ulimit -u`, `ulimit -n`")
_REMEDIES = {
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), FEW_PROCESSES),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), FEW_FILES),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there, then repeat the command."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "It may belong to another user: choose a folder of your own."),
    errno.ELOOP: "Remove it, or replace it by a file or folder of its own.",
}
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Error numbers that speak of this system as a whole, not of the file that was opened."""


def remedy(error: OSError) -> str:
    """Return a sentence on what to do about an error of the system, after a space; empty if it is not known."""
    return f" {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
