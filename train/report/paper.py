"""What of a report goes into a paper: figures as wide as a column, as PDF and PGF, and a LaTeX table of the arms."""

from __future__ import annotations

import shutil
from pathlib import Path

from train.errors import UsageError
from train.escape import latex, line
from train.report.analysis import Analysis
from train.report.selection import MOST_OPEN_ROWS
from train.report.table import ArmRow, rows
from train.store.inside import Folder

PAPER, TABLE = "paper", "arms.tex"
COLUMN_IN = 3.25
"""The width of a column in the narrower of the two-column styles of conferences, such as ICML's."""
PROGRAMS = ("xelatex", "lualatex", "pdflatex")
"""Programs that PGF can take, which measures text with one."""

_HEAD = r"""% Needs no package. Input it within a table or table* environment.
\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\renewcommand{\arraystretch}{1.2}%
\begin{tabular}{@{}p{0.3\columnwidth}rrr@{}}
\hline
"""


def write_paper(analysis: Analysis, out: Path) -> str:
    """Write figures and table into the folder `paper` below `out`, and return what a terminal shows.

    UsageError when the folder cannot be written.
    """
    from train.report.figure_data import draw_all  # imports matplotlib

    tex = next((program for program in PROGRAMS if shutil.which(program)), "")
    files = {f"{figure.name}.pdf": figure.svg for figure in draw_all(analysis, COLUMN_IN, "pdf")}
    if tex:
        files |= {f"{figure.name}.pgf": figure.svg for figure in draw_all(analysis, COLUMN_IN, "pgf", tex) if figure.svg}
    files[TABLE] = table(analysis).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = (Folder(out) / PAPER).make()
        for name, content in files.items():
            folder.write(name, content)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write the paper's files ({error.strerror}). Name another folder.") from None
    without = "" if tex else f" (no PGF: none of {', '.join(PROGRAMS)} is installed)"
    return line(f"paper: {out / PAPER}{without}")


def table(analysis: Analysis) -> str:
    """Return the arms as a LaTeX table that fits a column: mean, difference to the baseline with its interval, adjusted p."""
    *first, last = analysis.metric.name.split()  # on two lines, as a column is narrow
    unit = " (%)" if analysis.metric.is_share else ""
    shown = rows(analysis, MOST_OPEN_ROWS)
    lines = [rf"arm & {latex(' '.join(first))} & difference & p \\", rf" & {latex(last + unit)} & & \\ \hline"]
    for row in shown:
        lines += _rows(row)
    rest = f"% and {shown.more} more arms in results.csv\n" if shown.more else ""
    return _HEAD + "\n".join(lines) + "\n\\hline\n" + rest + "\\end{tabular}\\endgroup\n"


def _rows(row: ArmRow) -> list[str]:
    """Return the row of an arm, and a second one with the interval where there is one."""
    name = latex(row.label).replace("=", r"=\penalty200{}").replace(r"\_", r"\_\penalty200{}")  # rather between settings
    mean = latex(f"{row.mean} {row.uncertainty}".strip())
    cells = [rf"\raggedright {name}", mean, latex(row.difference), latex(row.p)]
    first = " & ".join(cells) + r" \\"
    return [first, rf" & & {latex(row.interval)} & \\"] if row.interval else [first]
