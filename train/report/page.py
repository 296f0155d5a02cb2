"""The page: one HTML file that needs nothing else, neither network nor scripts."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.content import VERDICTS, Content, relative_path
from train.report.table import command

TEMPLATES = Path(__file__).with_name("templates")
_STRIP_LEFT, _STRIP_WIDTH = 5.0, 110.0


def html(content: Content, out: Path) -> str:
    """`out`: the folder of the page, to which paths are relative. Whatever comes from a run folder is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= {"verdicts": VERDICTS, "base64": _base64, "at": _at, "command": command}
    return environment.get_template("report.html.j2").render(c=content, shown=lambda path: relative_path(path, out))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _at(place: float) -> str:
    """A place on the strip of dots, in its own units."""
    return f"{_STRIP_LEFT + _STRIP_WIDTH * place:.1f}"
