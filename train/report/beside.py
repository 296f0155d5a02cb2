"""What is written beside a page and may fail: the page is complete without it. Libraries are imported when it is written."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from train.escape import line
from train.store.inside import Folder

if TYPE_CHECKING:
    from train.report.analysis import Analysis
    from train.report.results_csv import Results

log = logging.getLogger("train")

RESULTS, CURVES = "results.parquet", "curves.parquet"


def write_parquet(analysis: Analysis, found: Results, out: Path) -> None:
    """Write both files of Parquet, or neither. An error is only logged: the report is complete without them."""
    try:
        from train.report.results_parquet import curves_parquet, results_parquet  # imports pyarrow

        Folder(out).write(RESULTS, results_parquet(found))  # one after the other, as they are large
        Folder(out).write(CURVES, curves_parquet(analysis, out))
    except Exception as error:
        for name in (RESULTS, CURVES):  # older ones would be of other runs than the page
            with suppress(OSError):
                Folder(out).remove(name)
        log.warning("could not write %s and %s: %s: %s", RESULTS, CURVES, type(error).__name__, line(str(error)))


def write_charts(analysis: Analysis, folder: Path) -> None:
    """Write TensorBoard charts. An error is only logged: the report is complete without them."""
    try:
        from train.report import tensorboard

        tensorboard.write_charts(analysis, folder)
    except Exception as error:
        log.warning("could not write TensorBoard charts of the arms: %s: %s", type(error).__name__, line(str(error)))
