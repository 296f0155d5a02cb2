"""Render the report as one self-contained HTML file, without scripts or network requests."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.content import VERDICTS, Content, relative_path
from train.report.table import command

TEMPLATES = Path(__file__).with_name("templates")
_STRIP_LEFT, _STRIP_WIDTH = 5.0, 110.0


def html(content: Content, out: Path) -> str:
    """Render `content`. `out`: the folder of the page, to which paths are relative. All text from run folders is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= {"verdicts": VERDICTS, "base64": _base64, "strip_x": _strip_x, "command": command}
    return environment.get_template("report.html.j2").render(c=content, relative=lambda path: relative_path(path, out))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _strip_x(position: float) -> str:
    """Return the x coordinate of `position` (0 to 1) on the strip of dots."""
    return f"{_STRIP_LEFT + _STRIP_WIDTH * position:.1f}"
