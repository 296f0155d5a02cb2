"""Draw what `train` shows in a terminal, for the README: runs the command in a terminal of its own, in an empty folder.

python scripts/terminal.py trainer.epochs=3   # writes docs/terminal.svg
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).resolve().parents[1] / "docs" / "terminal.svg"
COMMAND = Path(sys.executable).with_name("train")
COLUMNS, ROWS = 100, 60
CONTROL = re.compile(r"(\r|\n|\x1b\[\?25[hl]|\x1b\[\d*[AK])")
"""What moves the cursor, shows it, or erases a line; colours stay a part of the text."""


def output_of(arguments: Sequence[str], folder: Path) -> str:
    """Return everything that the command writes to a terminal, control sequences included."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(
        [str(COMMAND), *arguments], stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder, env=environment
    ) as process:
        os.close(terminal)
        text = b"".join(_read(controller)).decode()
    if process.returncode:
        sys.exit(f"train ended with exit code {process.returncode}:\n{text}")
    return text


def _read(controller: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(controller, 1 << 16)
        except OSError:  # the command has ended
            return


def screen(text: str) -> list[str]:
    """Return the lines that remain: a line that is written again takes the place of the old one."""
    lines, row, begins = [""], 0, True
    for part in CONTROL.split(text):
        if part == "\n":
            row, begins = row + 1, True
            lines += [""] * (row == len(lines))
        elif part == "\r":
            begins = True
        elif part.startswith("\x1b[") and part.endswith("A"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part.startswith("\x1b[") and part.endswith("K"):
            lines[row] = ""
        elif part and not part.startswith("\x1b[?"):
            lines[row], begins = ("" if begins else lines[row]) + part, False
    return lines


def main(arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        lines = screen(output_of(arguments, folder).replace(str(folder), "~/train"))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\n".join(lines).strip("\n")))
    TARGET.write_text(console.export_svg(title=" ".join(["train", *arguments])), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
