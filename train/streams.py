"""Standard output and standard error as views: where one cannot be written, the program goes on without it."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

from train.escape import terminal

STDOUT = 1
LONGEST = 4_000
"""Characters of a message that are shown: a folder may hold a value of a million."""
NAMES = {STDOUT: "stdout", 2: "stderr"}


_COPIED = ("train ", "train-", "tensorboard ", "report: ", "paper: ")
"""The beginnings of lines that hold a command or a path."""
_COLUMN = re.compile(r"(?P<indent> *)(?P<first>\w+ {2,})?")


class LastingFile(io.FileIO):
    """An open file to write to that never fails: from the first error on it leads nowhere. Standard output says so."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: Buffer, /) -> int | None:
        """Write `data`; return the number of bytes, also when they are lost."""
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == STDOUT:
                _warn("its reader is gone" if error.errno == errno.EPIPE else error.strerror or str(error))
            return memoryview(data).nbytes


def say(text: str = "", *, error: bool = False, wraps: bool = False) -> None:
    """Print text, with all its characters shown: on standard output, or on standard error. Everything is printed here.

    With `wraps`, a terminal shows long lines broken between words, but for commands and paths, which are to be copied.
    """
    stream = sys.stderr if error else sys.stdout
    columns = _columns(stream) if wraps else 0
    lines = terminal(text).split("\n")
    print("\n".join(_wrapped(line, columns) for line in lines) if columns else "\n".join(lines), file=stream, flush=True)


def _columns(stream: TextIO) -> int:
    """Return the width of a terminal, 0 for anything else."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def _wrapped(line: str, columns: int) -> str:
    """Return a line that is too long as several; the later ones are indented, up to its text if its first word stands apart."""
    begin = _COLUMN.match(line)
    if len(line) <= columns or begin is None or line.lstrip().startswith(_COPIED):
        return line
    hanging = " " * (begin.end() if begin["first"] else begin.end() + 2)
    width = max(columns, 2 * len(hanging))
    pieces = textwrap.wrap(
        line, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(pieces)


def say_error(program: str, error: object) -> None:
    """Print a message on standard error. Its further lines are indented: what it quotes cannot pass for another message.

    Of a long one the beginning and the end are shown.
    """
    text = str(error)
    if (more := len(text) - LONGEST) > 0:
        text = f"{text[: LONGEST // 2]} [... {more:,} characters ...] {text[-LONGEST // 2 :]}"
    say(f"{program}: {text.replace(chr(10), f'{chr(10)}  ')}", error=True)


def protect_output() -> None:
    """Keep the work from ending because standard output or standard error cannot be written or is closed."""
    closed = [number for number in range(3) if not _is_open(number)]
    for _ in closed:
        number = os.open(os.devnull, os.O_RDWR)  # the lowest free one, which a file of a run would get otherwise
        os.set_inheritable(number, True)
    for number, name in NAMES.items():
        stream = _lasting(number, getattr(sys, f"__{name}__"))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if STDOUT in closed:
        _warn("it is closed")


def _lasting(number: int, stream: TextIO | None) -> TextIO:
    """Return a stream like `stream` that writes to the same file and never fails."""
    file = io.BufferedWriter(LastingFile(number))
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(file, "utf-8", line_buffering=True)
    stream.flush()
    return io.TextIOWrapper(
        file, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through
    )


def _warn(reason: str) -> None:
    if sys.stderr is not None:
        say(f"warning: standard output cannot be written ({reason}). The work goes on without it.", error=True)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def replace_unprintable() -> None:
    """Print question marks for what a terminal without Unicode cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
