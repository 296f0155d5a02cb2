"""Render the report as Markdown, for a README or a merge request; its figures are files beside it."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.content import VERDICTS, Content, relative_path
from train.report.page import TEMPLATES
from train.report.table import command


def markdown(content: Content, out: Path) -> str:
    """Render `content`. `out`: the folder of the file, to which paths are relative."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"md": escaped, "code": code, "line": one_line}
    environment.globals |= {"verdicts": VERDICTS, "command": command}
    text = environment.get_template("report.md.j2").render(c=content, relative=lambda path: relative_path(path, out))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """Escape Markdown and HTML, and join lines so that the text fits into a table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """Format as inline code, in a fence of more backticks than `text` has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{one_line(text)}{padding}{fence}"


def one_line(text: str) -> str:
    return " ".join(text.split("\n"))
