"""Make the page anew while a sweep runs: `train-report --watch`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from train.report.collect import Collection, collect
from train.report.make import make_report
from train.report.options import ReportOptions
from train.store.files import METRICS_FILE
from train.store.inside import Folder
from train.streams import say


def watch_report(folders: Sequence[Path], out: Path, options: ReportOptions, every_s: float) -> None:
    """Make the report whenever runs have got on, until none is running or planned. UsageError as `make_report`.

    One page is made in any case. What the terminal shows of a page follows a line with the time.
    """
    seen: object = None
    while True:
        found = collect(folders)
        if (now := _progress(found)) != seen:
            seen = now
            say(f"{time.strftime('%H:%M:%S')}\n{make_report(folders, out, options)[1]}", wraps=True)
        if not _is_open(found):
            return
        time.sleep(every_s)


def _progress(found: Collection) -> object:
    """Return a value that changes when a run does: its state, or what it has recorded."""
    sizes = {run.folder: Folder(run.folder).stat(METRICS_FILE) for run in found.runs}
    return {run.folder: (run.state, size.st_size if (size := sizes[run.folder]) else 0) for run in found.runs}


def _is_open(found: Collection) -> bool:
    """Return whether a run is running, or planned and not there yet."""
    return bool(found.missing) or any(run.state in ("running", "queued") for run in found.runs)
