"""The report as Markdown, for a README or a merge request; its figures are files beside it."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.content import VERDICTS, Content, relative_path
from train.report.page import TEMPLATES
from train.report.table import command


def markdown(content: Content, out: Path) -> str:
    """`out`: the folder of the file, to which paths are relative."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"md": escaped, "code": code, "line": one_line}
    environment.globals |= {"verdicts": VERDICTS, "command": command}
    text = environment.get_template("report.md.j2").render(c=content, shown=lambda path: relative_path(path, out))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """As it is, whatever Markdown or HTML its characters would mean; on one line, so that it fits a table's cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """Between as many backticks as it takes."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{one_line(text)}{room}{fence}"


def one_line(text: str) -> str:
    return " ".join(text.split("\n"))
