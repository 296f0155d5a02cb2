"""Render the report as one self-contained HTML file, as Markdown, and as a summary for a terminal."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from train import escape
from train.report import table_text
from train.report.analysis import Analysis
from train.report.frame import Frame
from train.report.more_seeds import more_seeds
from train.report.paths import relative_path
from train.report.selection import MOST_OPEN_ROWS
from train.report.statistics.threats import CONTRADICTIONS
from train.report.table import rows

TEMPLATES = Path(__file__).with_name("templates")
Template: TypeAlias = Literal["report", "findings"]
MOST_ROWS = 20
MOST_OPEN = 20
"""Rows of a page that are open, of lists of runs, or of claims. The others are in closed details."""
_FILTERS = {"code": escape.markdown_code, "line": escape.line, "breakable": escape.html_name}
"""Filters whose result is Markdown or HTML already."""
_STRIP_LEFT, _STRIP_WIDTH = 5.0, 110.0


def html(content: Frame, out: Path, template: Template = "report") -> str:
    """Render `content` as a page without scripts or network requests. All text from run folders is escaped.

    `out`: the folder of the page, to which paths are relative; `template`: the one that the content is for.
    """
    return _rendered(f"{template}.html.j2", content, out, escape.terminal, base64=_base64, strip_x=_strip_x)


def markdown(content: Frame, out: Path, template: Template = "report") -> str:
    """Render `content` for a README or a merge request; its figures are files beside it. `out`: as for the page.

    All text is escaped, but for what a filter of the template has made Markdown.
    """
    text = _rendered(f"{template}.md.j2", content, out, partial(_made, escape.markdown))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def as_text(analysis: Analysis, page: Path) -> str:
    """Return the claims, runs without a chosen ingredient where no claim says so, the arms with their means, and the path of the
    page."""
    lines = [line for found in (analysis.final, analysis) if found for line in _claim_lines(found)]
    lines += [analysis.nothing_trained] if analysis.nothing_trained else []
    if (more := more_seeds(analysis)).commands:
        lines += [more.sentence, *(f"  {command}" for command in more.commands)]
        lines += filter(None, [analysis.study.collection.left_out])
    lines += [f"warning: {sentence}" for sentence in _unclaimed_contradictions(analysis)]
    if lines:
        lines.append("")
    arm_rows = rows(analysis, MOST_ROWS)
    width = min(max(len(row.label) for row in arm_rows), 50)
    unit = " %" if analysis.metric.is_share else ""
    lines.append(f"{'arm':<{width}}  runs  {analysis.metric.name}, mean +- standard error")
    for row in arm_rows:
        untrained = [f"{row.trained} trained"] if analysis.samples[row.arm.id].untrained else []
        counts = ((row.diverged, "diverged"), (row.failed, "failed"))
        lost = ", ".join([*untrained, *(f"{count} {state}" for count, state in counts if count)])
        error = f" {row.uncertainty}".replace("±", "+-").rstrip()
        mean = f"{row.mean}{error}{unit}" if row.mean != table_text.UNKNOWN else "-"
        remarks = (f"  ({lost})" if lost else "") + "".join(
            f"  {note}" for note in (row.tuned_level, row.signal, row.why) if note
        )
        lines.append(f"{row.label:<{width}}  {row.done:>4}  {mean}{remarks}".rstrip())
    if arm_rows.more:
        lines.append(f"... and {arm_rows.more} more")
    return "\n".join(map(escape.line, [*lines, "", f"report: {page}"]))


def _unclaimed_contradictions(analysis: Analysis) -> list[str]:
    claimed = " ".join(claim.sentence for claim in analysis.claims)
    sentences = [threat.sentence for threat in analysis.threats if threat.kind == CONTRADICTIONS]
    return [text for text in sentences if text.partition("configuration: ")[2].partition(". ")[0].rstrip(".") not in claimed]


def _claim_lines(analysis: Analysis) -> Iterator[str]:
    """Yield the standing of the verdicts, then the claims."""
    if analysis.claims and analysis.standing.sentence:
        yield f"verdicts: {analysis.standing.sentence}"
    for claim in analysis.claims:
        yield f"{claim.factor}: {claim.heading}"
        yield from (f"  {level.heading}: {level.sentence}" for level in claim.levels)
        yield from (f"  {sentence}" for sentence in claim.interactions)


def _rendered(template: str, content: Frame, out: Path, escaped: Callable[[str], str], **functions: Any) -> str:
    """Render a template. `escaped` is applied to every text that it shows; what is then no Markup is escaped for HTML."""

    def finalize(value: Any) -> Any:
        return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=finalize,
    )
    environment.filters |= {name: partial(_made, function) for name, function in _FILTERS.items()}
    environment.globals |= {"most_open": MOST_OPEN, "most_rows": MOST_OPEN_ROWS, **functions}
    return environment.get_template(template).render(c=content, relative=lambda path: relative_path(path, out))


def _made(function: Callable[[str], str], text: str) -> Markup:
    return Markup(function(text))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _strip_x(position: float) -> str:
    """Return the x coordinate of `position` (0 to 1) on the strip of dots."""
    return f"{_STRIP_LEFT + _STRIP_WIDTH * position:.1f}"
