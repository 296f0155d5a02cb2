"""Make a report from run folders: analysis, figures, page and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import UsageError
from train.report import metric as metrics
from train.report.beside import write_charts, write_parquet
from train.report.options import ReportOptions
from train.store.files import FIGURES_FOLDER, STATUS_FILE
from train.store.inside import Folder

if TYPE_CHECKING:
    from train.figures.style import ReportFigure
    from train.report.analysis import Analysis
    from train.report.arms import Study
    from train.report.collect import Collection
    from train.report.findings import AnalysisKind

PAGE, MARKDOWN, PAIRS = "report.html", "report.md", "pairs.csv"


def make_report(folders: Sequence[Path], out: Path, options: ReportOptions) -> tuple[Path, str]:
    """Read the runs in `folders` and write the report into `out`; return the path of the page, and what a terminal shows.

    UsageError when that fails.
    """
    from train.report.collect import collect

    return make_page(collect(folders), out, options)


def make_page(collection: Collection, out: Path, options: ReportOptions) -> tuple[Path, str]:
    """Write the report on a collection of runs into `out`; otherwise as `make_report`."""
    from train.report.analyses import analysis_of, find_analysis
    from train.report.arms import build_study

    study = build_study(collection, options.baseline, options.tune)
    name = analysis_of(study, options)
    if (kind := find_analysis(name)) is not None:
        return write_findings(study, kind, name, out, options)
    analysis = analyse_study(study, options)
    page = write_report(analysis, out, tensorboard=options.tensorboard)
    from train.report.page_record import record_looks
    from train.report.render import as_text

    record_looks(analysis)

    return page, as_text(analysis, page)


def read_study(folders: Sequence[Path], options: ReportOptions) -> Study:
    """Read the runs in `folders` and group them into arms. UsageError for bad folders or options."""
    from train.report.arms import build_study
    from train.report.collect import collect

    return build_study(collect(folders), options.baseline, options.tune)


def analyse_folders(folders: Sequence[Path], options: ReportOptions) -> Analysis:
    """Read the runs in `folders` and compare the arms, without writing files. UsageError for bad folders or options."""
    return analyse_study(read_study(folders, options), options)


def analyse_study(study: Study, options: ReportOptions) -> Analysis:
    """Compare the arms of a study. UsageError for a metric that no run has."""
    from train.report.history import CURVE_TAGS, read_histories

    metric = metrics.Metric(options.metric)
    histories = read_histories((*study.runs, *study.unchosen_runs), (*CURVE_TAGS, metric.tag))
    metrics.check_metric(metric, study.runs, histories)
    from train.report.analysis import analyse_by_plan  # imports scipy, which takes longer than everything before

    looks = study.manifest.planned_looks if study.manifest else None
    smallest = options.smallest_effect or (looks.margin if looks else None)
    return analyse_by_plan(study, metric, histories, pairs=options.pairs, smallest_effect=smallest)


def write_report(analysis: Analysis, out: Path, *, tensorboard: bool) -> Path:
    """Write the page, the Markdown file, the tables and the figures into `out`, and return the path of the page.

    TensorBoard charts of the arms are written if there is one folder and it is not itself a run. UsageError when `out` cannot be
    written.
    """
    _make_folders(out)
    from train.report.content import build_content
    from train.report.figure_data import FIGURES, draw_all
    from train.report.render import html, markdown
    from train.report.results_csv import csv_text, pairs_text, results

    figures = draw_all(analysis)
    content = build_content(analysis, figures)
    found = None if analysis.study.collection.table else results(analysis, out)
    files = {
        **({"results.csv": csv_text(found)} if found else {}),
        **({PAIRS: pairs_text(analysis)} if analysis.pairs else {}),
        MARKDOWN: markdown(content, out),
        PAGE: html(content, out),
    }
    _write_files(out, files, figures, FIGURES, {PAIRS})
    if found:
        write_parquet(analysis, found, out)
    folders = analysis.study.collection.folders
    if tensorboard and len(folders) == 1 and not Folder(folders[0]).exists(STATUS_FILE):
        write_charts(analysis, folders[0])
    return out / PAGE


def write_findings(study: Study, kind: AnalysisKind, name: str, out: Path, options: ReportOptions) -> tuple[Path, str]:
    """Analyse a study and write the page, the Markdown file, the numbers and the figures into `out`; return as `make_report`."""
    from train.report.findings_page import findings_content, findings_text
    from train.report.history import CURVE_TAGS, SIGNALS, read_histories
    from train.report.render import html, markdown
    from train.report.results_csv import table_text

    _make_folders(out)
    tags = tuple(dict.fromkeys((*CURVE_TAGS, *kind.tags)))
    histories = read_histories((*study.runs, *study.unchosen_runs), tags, kind.statistics or tuple(SIGNALS))
    findings = kind.analyse(study, histories, options)
    content = findings_content(findings, study, histories)
    files = {
        f"{name}.csv": table_text(findings.numbers),
        MARKDOWN: markdown(content, out, "findings"),
        PAGE: html(content, out, "findings"),
    }
    _write_files(out, files, findings.figures, kind.figures)
    return out / PAGE, findings_text(findings, out / PAGE)


def _make_folders(out: Path) -> None:
    with _writable(out):
        out.mkdir(parents=True, exist_ok=True)
        (Folder(out) / FIGURES_FOLDER).make()


def _write_files(
    out: Path, files: Mapping[str, str], figures: Sequence[ReportFigure], names: Iterable[str], others: Iterable[str] = ()
) -> None:
    """Write a page with its files and figures. `names`, `others`: figures and files of which those of an earlier page go."""
    with _writable(out):
        folder = Folder(out)
        for stale in set(names) - {figure.name for figure in figures}:
            (folder / FIGURES_FOLDER).remove(f"{stale}.svg")
        for stale in set(others) - files.keys():
            folder.remove(stale)
        for figure in figures:
            (folder / FIGURES_FOLDER).write(f"{figure.name}.svg", figure.svg)
        for name, text in files.items():
            folder.write(name, text.encode())


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Turn an OSError into a UsageError that names a remedy."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write the report ({error.strerror}). Name another folder.") from None
