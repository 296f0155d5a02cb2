"""The report in a few lines for a terminal, plain text."""

from __future__ import annotations

from pathlib import Path

from train.report import table_text
from train.report.analysis import Analysis
from train.report.content import VERDICTS
from train.report.table import rows

MOST_ROWS = 20


def as_text(analysis: Analysis, page: Path) -> str:
    """Claims, the arms with their means, and where the page is."""
    lines = []
    for claim in analysis.claims:
        lines += [f"{claim.factor}: {VERDICTS[claim.verdict]}", f"  {claim.sentence}"]
    if lines:
        lines.append("")
    made = rows(analysis)
    width = min(max(len(row.label) for row in made), 50)
    unit = " %" if analysis.metric.is_share else ""
    lines.append(f"{'arm':<{width}}  runs  {analysis.metric.name}")
    for row in made[:MOST_ROWS]:
        lost = ", ".join(f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.failed, "failed")) if count)
        error = f" +- {row.standard_error}" if row.standard_error else ""
        mean = f"{row.mean}{error}{unit}" if row.mean != table_text.UNKNOWN else "-"
        remarks = (f"  ({lost})" if lost else "") + (f"  {row.at}" if row.at else "")
        lines.append(f"{row.label[:width]:<{width}}  {row.done:>4}  {mean}{remarks}".rstrip())
    if len(made) > MOST_ROWS:
        lines.append(f"... and {len(made) - MOST_ROWS} more")
    return "\n".join([*lines, "", f"report: {page}"])
