"""From run folders to a report: table, figures, page."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import UsageError
from train.report import metric as metrics

if TYPE_CHECKING:
    from train.report.analysis import Analysis

log = logging.getLogger("train")

PAGE = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """`metric`: a tag, such as accuracy/test; `baseline`: an arm's id or overrides, empty for the plan's; `pairs`: compare all
    arms with each other; `smallest_effect`: the difference that would matter, in the metric's own unit (a fraction for
    accuracies), None for the default; `tensorboard`: also write the charts of the arms into the folder of the runs; `tune`: keys
    of which a level is chosen for each arm, empty for those of the sweep."""

    metric: str = metrics.DEFAULT
    baseline: str = ""
    pairs: bool = False
    smallest_effect: float | None = None
    tensorboard: bool = True
    tune: tuple[str, ...] = ()


def make_report(folders: Sequence[Path], out: Path, options: ReportOptions) -> Path:
    """Read the runs in `folders` and write the report into `out`; returns the page. UsageError for what cannot be reported."""
    analysis = analyse_folders(folders, options)
    return write_report(analysis, out, tensorboard=options.tensorboard)


def analyse_folders(folders: Sequence[Path], options: ReportOptions) -> Analysis:
    """Everything but the files."""
    from train.report.arms import build_study
    from train.report.collect import collect
    from train.report.history import CURVE_TAGS, read_histories

    study = build_study(collect(folders), options.baseline, options.tune)
    metric = metrics.Metric(options.metric)
    histories = read_histories((*study.runs, *study.set_aside), (*CURVE_TAGS, metric.tag))
    metrics.check_metric(metric, study.runs, histories)
    from train.report.analysis import analyse  # imports scipy, which takes longer than all before it

    return analyse(study, metric, histories, pairs=options.pairs, smallest_effect=options.smallest_effect)


def write_report(analysis: Analysis, out: Path, *, tensorboard: bool) -> Path:
    """The page, the Markdown file, the table of runs and the figures, and TensorBoard's charts of the arms where there is one
    folder and it holds runs rather than being one. UsageError when `out` cannot be written."""
    figures = out / "figures"
    with _writable(out):
        figures.mkdir(parents=True, exist_ok=True)
    from train.report.content import build_content
    from train.report.figure_data import FIGURES, draw_all
    from train.report.markdown import markdown
    from train.report.page import html
    from train.report.results_csv import csv_text

    drawings = draw_all(analysis)
    content = build_content(analysis, drawings)
    files = {
        "results.csv": csv_text(analysis, out).encode(),
        "report.md": markdown(content, out).encode(),
        PAGE: html(content, out).encode(),
    }
    with _writable(out):
        for stale in FIGURES - {drawing.name for drawing in drawings}:
            (figures / f"{stale}.svg").unlink(missing_ok=True)
        for drawing in drawings:
            _write(figures / f"{drawing.name}.svg", drawing.svg)
        for name, data in files.items():
            _write(out / name, data)
    folders = analysis.study.collection.folders
    if tensorboard and len(folders) == 1 and not (folders[0] / "status.json").exists():
        _write_charts(analysis, folders[0])
    return out / PAGE


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Says of a disk's refusal what the user can do."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out {out}: the report cannot be written there ({error.strerror}). Name another folder.") from None


def _write(path: Path, data: bytes) -> None:
    """In one step: a browser that reloads sees the old page or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _write_charts(analysis: Analysis, folder: Path) -> None:
    """A view: when TensorBoard is not there, or the disk is full, the report is no worse for it."""
    try:
        from train.report.tensorboard import write_charts

        write_charts(analysis, folder)
    except Exception as error:
        log.warning("no TensorBoard charts of the arms: %s: %s", type(error).__name__, error)
