"""Make a report of runs that were not made here, from a table of them."""

from __future__ import annotations

from pathlib import Path

from train.errors import UsageError
from train.report.make import MARKDOWN, PAGE, PAIRS, write_report
from train.report.options import ReportOptions
from train.report.read_table import TableColumns


def make_table_report(path: Path, out: Path, columns: TableColumns, options: ReportOptions) -> tuple[Path, str]:
    """Make the report of runs that were not made here, from a table of them; arguments and result otherwise as `make_report`."""
    from train.report.elsewhere import analyse_table
    from train.report.render import as_text

    if {place for name in (PAIRS, MARKDOWN, PAGE) for place in (out / name, out.resolve() / name)} & {path, path.resolve()}:
        raise UsageError(f"--out {out}: the report would overwrite the table {path.name}. Name another folder.")
    analysis = analyse_table(path, columns, options.baseline, pairs=options.pairs, smallest_effect=options.smallest_effect)
    page = write_report(analysis, out, tensorboard=False)
    return page, as_text(analysis, page)
