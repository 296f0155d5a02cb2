"""Summarise the report for a terminal, as plain text."""

from __future__ import annotations

from pathlib import Path

from train.report import table_text
from train.report.analysis import Analysis
from train.report.content import VERDICTS
from train.report.statistics.threats import CONTRADICTIONS
from train.report.table import rows

MOST_ROWS = 20


def as_text(analysis: Analysis, page: Path) -> str:
    """Return the claims, the arms with their means, and the path of the page."""
    lines = []
    for claim in analysis.claims:
        lines += [f"{claim.factor}: {VERDICTS[claim.verdict]}", f"  {claim.sentence}"]
    lines += [f"warning: {threat.sentence}" for threat in analysis.threats if threat.kind == CONTRADICTIONS]
    if lines:
        lines.append("")
    arm_rows = rows(analysis)
    width = min(max(len(row.label) for row in arm_rows), 50)
    unit = " %" if analysis.metric.is_share else ""
    lines.append(f"{'arm':<{width}}  runs  {analysis.metric.name}")
    for row in arm_rows[:MOST_ROWS]:
        lost = ", ".join(f"{count} {state}" for count, state in ((row.diverged, "diverged"), (row.failed, "failed")) if count)
        error = f" +- {row.standard_error}" if row.standard_error else ""
        mean = f"{row.mean}{error}{unit}" if row.mean != table_text.UNKNOWN else "-"
        remarks = (f"  ({lost})" if lost else "") + "".join(f"  {note}" for note in (row.tuned_level, *row.findings) if note)
        lines.append(f"{row.label[:width]:<{width}}  {row.done:>4}  {mean}{remarks}".rstrip())
    if len(arm_rows) > MOST_ROWS:
        lines.append(f"... and {len(arm_rows) - MOST_ROWS} more")
    return "\n".join([*lines, "", f"report: {page}"])
