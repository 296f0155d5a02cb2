"""The page of an analysis: its findings within the frame of every page, as HTML, Markdown, text, and a file of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train import escape
from train.report.arms import Study
from train.report.findings import Conclusion, Findings, Table
from train.report.frame import Frame, history_problems, runs_of_page
from train.report.header import plan_fields, setup_fields
from train.report.history import History
from train.report.selection import Shown
from train.store.files import MANIFEST_FILE


@dataclass(frozen=True)
class FindingsContent(Frame):
    """All content of the page of an analysis."""

    conclusions: tuple[Conclusion, ...]
    tables: tuple[Table, ...]


def findings_content(findings: Findings, study: Study, histories: Mapping[Path, History]) -> FindingsContent:
    """Return the content of the page. `histories`: by run folder."""
    notes = (*findings.notes, *history_problems(study.runs, histories))
    return FindingsContent(
        title=findings.title,
        header=(*plan_fields(study), *findings.header, *setup_fields(study)),
        figures=findings.figures,
        threats=findings.threats,
        untrained=Shown(()),  # whether a run learned anything is no question of it
        conclusions=findings.conclusions,
        tables=findings.tables,
        listed_in=MANIFEST_FILE,
        **runs_of_page(study, study.arms, histories, notes),
    )


def findings_text(findings: Findings, page: Path) -> str:
    """Return what a terminal shows: the conclusions and the path of the page."""
    lines: list[str] = []
    for conclusion in findings.conclusions:
        lines.append(f"{conclusion.subject}: {conclusion.heading}")
        lines += [f"  {remark.verdict}: {remark.sentence}" for remark in conclusion.remarks]
    return "\n".join(map(escape.line, [*lines, "", f"report: {page}"]))
