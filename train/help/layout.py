"""Help text that fits the terminal. A text is written with indentation, and with two spaces or more between columns:

train norm=group      # a command and what it does, both words for bash
seed=0      a key and its meaning,
            which goes on in the column where it began
A paragraph, which goes on
with the same indentation.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

WIDEST = 140
NARROWEST = 30
WITHOUT_TERMINAL = 100
LEAST = 28
"""Columns that a meaning needs beside its key; where there are fewer, it goes below. A comment goes above its command."""

_COMMAND = re.compile(r"(?P<head>(?:train(?:-\w+)?|tensorboard|eval)(?: .*?)?)(?P<gap> {2,}(?=# ))?(?P<body>(?<=  )# .*)?")
_COLUMNS = re.compile(r"(?P<head>\S.*?)(?P<gap> {2,})(?P<body>\S.*)")
_QUOTED = re.compile(r"""(?<!\w)'[^'\s]*=[^']*'|"\$\([^"]*\)\"""")
_JOINED = "\0"
_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""")


@dataclass
class _Block:
    """Lines that are wrapped together. `column`: where the body begins; None without two columns."""

    indent: int
    head: str
    body: str = ""
    column: int | None = None
    is_command: bool = False


def terminal_width() -> int:
    """Return the number of columns to write to: `COLUMNS` if it is set, else those of the terminal."""
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return max(NARROWEST, min(WIDEST, int(columns)))
    for number in (1, 2, 0):  # standard output may be a pipe to a pager
        try:
            return max(NARROWEST, min(WIDEST, os.get_terminal_size(number).columns or WITHOUT_TERMINAL))
        except OSError:
            continue
    return WITHOUT_TERMINAL


def fitted(text: str, width: int) -> str:
    """Return the text in lines of at most `width` characters, but for words that are longer."""
    lines: list[str] = []
    for block in _blocks(text):
        lines += _wrapped(block, width)
    return "\n".join(lines)


def _blocks(text: str) -> Iterator[_Block]:
    block: _Block | None = None
    for line in text.splitlines():
        words = line.strip()
        indent = len(line) - len(line.lstrip())
        if block is not None and words and _goes_on(block, words, indent):
            if block.column is None:
                block.head += f" {words}"
            else:
                block.body += f" {words.removeprefix('# ') if block.is_command else words}"
            continue
        if block is not None:
            yield block
        block = _block(words, indent)
    if block is not None:
        yield block


def _block(words: str, indent: int) -> _Block:
    if match := _COMMAND.fullmatch(words):
        column = indent + match.start("body") if match["body"] else None
        return _Block(indent, match["head"], (match["body"] or "").removeprefix("# "), column, is_command=True)
    if match := _COLUMNS.fullmatch(words):
        return _Block(indent, match["head"], match["body"], indent + match.start("body"))
    return _Block(indent, words)


def _goes_on(block: _Block, words: str, indent: int) -> bool:
    if block.column is not None:
        return indent == block.column
    is_prose = not _COMMAND.fullmatch(words) and not _COLUMNS.fullmatch(words)
    return bool(block.head) and not block.is_command and is_prose and indent == block.indent


def _wrapped(block: _Block, width: int) -> list[str]:
    margin = " " * block.indent
    if block.column is None:
        return _command(block, width) if block.is_command else _paragraph(block.head, margin, width)
    mark = "# " if block.is_command else ""
    column = " " * block.column
    beside = _paragraph(block.body, column + mark, width)
    if max(map(len, beside)) <= width and (len(beside) == 1 or width - block.column - len(mark) >= LEAST):
        return [f"{margin}{block.head}{column[len(margin) + len(block.head) :]}{beside[0][len(column) :]}", *beside[1:]]
    if block.is_command:
        return [*_paragraph(block.body, f"{margin}# ", width), *_command(block, width)]
    return [*_paragraph(block.head, margin, width), *_paragraph(block.body, f"{margin}    ", width)]


def _paragraph(text: str, margin: str, width: int) -> list[str]:
    whole = _QUOTED.sub(lambda match: match[0].replace(" ", _JOINED), text)
    lines = textwrap.wrap(
        whole, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_JOINED, " ") for line in lines] or [""]


def _command(block: _Block, width: int) -> list[str]:
    """Return a command in lines that bash reads as one."""
    margin = " " * block.indent
    lines = [margin + (words := _WORD.findall(block.head))[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= width or lines[-1].isspace():  # room for " \" at the end
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"{margin}    {word}")
    return lines
