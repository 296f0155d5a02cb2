"""Make a report from run folders: analysis, figures, page and tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from train.errors import UsageError
from train.escape import line
from train.report import metric as metrics
from train.store.files import FIGURES_FOLDER, STATUS_FILE
from train.store.inside import Folder

if TYPE_CHECKING:
    from train.report.analysis import Analysis

log = logging.getLogger("train")

PAGE, PAIRS = "report.html", "pairs.csv"


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report: the keys of `report`, documented in `conf/config.yaml`, and two of `train-report` alone.

    `metric`: a tag, such as accuracy/test; `baseline`: an arm's id or overrides, empty for the plan's; `pairs`: compare all pairs
    of arms; `smallest_effect`: the smallest effect of interest, in the metric's unit (a fraction for accuracies), None for the
    default; `tensorboard`: also write charts of the arms into the folder of the runs; `tune`: tuned keys, of which a level is
    chosen per arm, empty for those of the sweep.
    """

    metric: str = metrics.DEFAULT
    baseline: str = ""
    pairs: bool = False
    smallest_effect: Annotated[float, Gt(0)] | None = None
    tensorboard: bool = True
    tune: tuple[str, ...] = ()


def make_report(folders: Sequence[Path], out: Path, options: ReportOptions) -> tuple[Path, str]:
    """Read the runs in `folders` and write the report into `out`; return the path of the page, and what a terminal shows.

    UsageError when that fails.
    """
    analysis = analyse_folders(folders, options)
    page = write_report(analysis, out, tensorboard=options.tensorboard)
    from train.report.page_record import record_looks
    from train.report.render import as_text

    record_looks(analysis)

    return page, as_text(analysis, page)


def analyse_folders(folders: Sequence[Path], options: ReportOptions) -> Analysis:
    """Read the runs in `folders` and analyse them, without writing files. UsageError for bad folders or options."""
    from train.report.arms import build_study
    from train.report.collect import collect
    from train.report.history import CURVE_TAGS, read_histories

    study = build_study(collect(folders), options.baseline, options.tune)
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
    with _writable(out):
        out.mkdir(parents=True, exist_ok=True)
        figures_folder = (Folder(out) / FIGURES_FOLDER).make()
    from train.report.content import build_content
    from train.report.figure_data import FIGURES, draw_all
    from train.report.render import html, markdown
    from train.report.results_csv import csv_text, pairs_text

    figures = draw_all(analysis)
    content = build_content(analysis, figures)
    files = {
        "results.csv": csv_text(analysis, out).encode(),
        **({PAIRS: pairs_text(analysis).encode()} if analysis.pairs else {}),
        "report.md": markdown(content, out).encode(),
        PAGE: html(content, out).encode(),
    }
    with _writable(out):
        for stale in FIGURES - {figure.name for figure in figures}:
            figures_folder.remove(f"{stale}.svg")
        if PAIRS not in files:
            Folder(out).remove(PAIRS)
        for figure in figures:
            figures_folder.write(f"{figure.name}.svg", figure.svg)
        for name, data in files.items():
            Folder(out).write(name, data)
    folders = analysis.study.collection.folders
    if tensorboard and len(folders) == 1 and not Folder(folders[0]).exists(STATUS_FILE):
        _write_charts(analysis, folders[0])
    return out / PAGE


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Turn an OSError into a UsageError that names a remedy."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write the report ({error.strerror}). Name another folder.") from None


def _write_charts(analysis: Analysis, folder: Path) -> None:
    """Write TensorBoard charts. An error is only logged: the report is complete without them."""
    try:
        from train.report.tensorboard import write_charts

        write_charts(analysis, folder)
    except Exception as error:
        log.warning("could not write TensorBoard charts of the arms: %s: %s", type(error).__name__, line(str(error)))
