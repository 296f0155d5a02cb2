"""Text from files, folders and commands on its way to a terminal, Markdown, HTML, a spreadsheet or a shell.

One function for each of them. A run folder may come from anybody: without this, a reason or the name of an arm could move the
cursor, hide what follows, or be an element, a link, a formula or a second command.
"""

from __future__ import annotations

import html
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

UNTYPEABLE = "(a command with characters that cannot be typed)"

_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&$]")
_LINKED = re.compile(r"@+|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
"""What makes a link or a mention of plain text in the Markdown of code hosts, where no backslash prevents it."""
_BLOCK = re.compile(r"^([-+](?= |$)|\d{1,9}(?=[.)](?: |$))|[-=]+$)")
"""What makes a list, a heading or a rule of a line that begins with it."""
_JOINT = re.compile(r"[=,/_:](?=\w)|\.(?=[^\W\d])")
_LONG = re.compile(r"\S{21,}")
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2026": r"\ldots{}"}
_LATEX |= {"\u2212": "$-$", "\u00b1": r"$\pm$", "\u2013": "--", "<": "$<$", ">": "$>$"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_FORMULA = re.compile(r"(^|;)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
_ALONE = ("-", "+")
"""Texts that begin like a formula and are none."""


def terminal(text: str) -> str:
    r"""Return text whose characters are all shown: what a terminal would obey, or not show, is written as Python writes it.

    These are control characters but for line breaks and tabs (`\x1b`, `\r`), marks of the direction of writing and others without
    a width (`\u202e`), separators of lines, unpaired surrogates, and what Unicode has not assigned.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def line(text: str) -> str:
    """Return the text as `terminal` does, on one line: what it holds cannot pass for a line of the program's own."""
    return terminal(text).replace("\n", " ").replace("\t", " ")


def markdown(text: str) -> str:
    """Return Markdown that reads as this text, on one line, in a paragraph, a list, a table or a heading.

    It holds no element, link, image, mention or formula, whichever of CommonMark and GitHub's extensions renders it.
    """
    plain = " ".join(line(text).split())
    parts, at = [], 0
    for match in _LINKED.finditer(plain):
        parts += [_MARKUP.sub(r"\\\g<0>", plain[at : match.start()]), f"`{match[0]}`"]
        at = match.end()
    escaped = "".join([*parts, _MARKUP.sub(r"\\\g<0>", plain[at:])])
    return _BLOCK.sub(lambda match: f"{match[1]}\\" if match[1].isdigit() else f"\\{match[1]}", escaped)


def markdown_code(text: str) -> str:
    """Return inline code of Markdown: the text on one line, in a fence of more backticks than it has in a row."""
    shown = line(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown or ' '}{padding}{fence}"


def html_name(text: str) -> str:
    """Return HTML that reads as this name, and in which a line may end within what is long, after a sign as in `norm=batch`."""
    return _LONG.sub(lambda word: _JOINT.sub(r"\g<0><wbr>", word[0]), html.escape(terminal(text)))


def latex(text: str) -> str:
    """Return LaTeX that reads as this text, on one line: none of its characters is a command."""
    return "".join(_LATEX.get(character, character) for character in line(text))


def csv_cell(value: object) -> str:
    """Return the text of a cell that no spreadsheet takes for a formula; numbers stay numbers.

    Text that begins with =, +, - or @ gets an apostrophe in front, as OWASP advises ("CSV Injection"); so does what follows a
    semicolon, at which some spreadsheets cut a cell. Tabs and line breaks, also on OWASP's list, are no part of a cell.
    """
    text = line(str(value)).strip()
    return text if _NUMBER.fullmatch(text) or text in _ALONE else _FORMULA.sub(r"\1'", text)


def shell_command(words: Iterable[str]) -> str:
    """Return the words as a command for a POSIX shell; `UNTYPEABLE` if one cannot be an argument."""
    try:
        return " ".join(map(shell_word, words))
    except ValueError:
        return UNTYPEABLE


def shell_word(text: str) -> str:
    r"""Return the text as one word for a POSIX shell, of characters that are shown: `$'a\012b'` where it has others.

    A semicolon is written so, too: `csv_cell` would change what follows it. ValueError for what cannot be an argument: a null
    character, or a surrogate that stands for no byte.
    """
    if text.isprintable() and ";" not in text:
        return shlex.quote(text)
    if "\0" in text:
        raise ValueError("a null character cannot be part of an argument")
    return f"$'{''.join(map(_in_shell, text))}'"


def _in_shell(character: str) -> str:
    if character.isprintable() and character not in "\\';!":
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":  # spaces of all widths
        return character
    return character.encode("unicode_escape").decode()
