"""The end of a sweep, whatever happened on the way: what became of every run, the report, how to go on, and the exit code."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.errors import Interrupted, UsageError
from train.sinks.number_text import plural
from train.store.manifest import PlannedRun
from train.store.run import FINISHED
from train.sweep.reuse import runs_by_identity
from train.sweep.settings import ReportSettings

SHOWN_FAILURES = 20
LOGS = ("train.log", "console.log")
"""Where a run says what went wrong: its own log, or what its process printed."""

STATE_ORDER = ("done", "diverged", "failed", "interrupted", "lost", "running", "queued", "missing")
STATE_TEXT = {
    "lost": "ended without a word (killed)",
    "running": "still running elsewhere",
    "missing": "not started",
}

exit_codes: list[int] = []
"""Of the sweeps that this process concluded. The front door ends with the last; the codes of single jobs do not matter then."""


@dataclass(frozen=True)
class RunOutcome:
    """What became of a planned run; `folder` is None where it left none."""

    planned: PlannedRun
    state: str
    reason: str = ""
    folder: Path | None = None

    @property
    def name(self) -> str:
        return " ".join(self.planned.overrides) or "defaults"


def run_outcomes(folder: Path, planned: Sequence[PlannedRun]) -> list[RunOutcome]:
    """From the run folders alone."""
    found = runs_by_identity(folder)
    results = []
    for run in planned:
        known = found.get(run.identity)
        if known is not None:
            results.append(RunOutcome(run, known.state, known.reason, known.folder))
        else:
            results.append(_unreadable(run, folder / run.folder))
    return results


def _unreadable(planned: PlannedRun, folder: Path) -> RunOutcome:
    """A run without a readable record: it never began, or its process died while writing."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        return RunOutcome(planned, "failed", str(status.get("reason") or "its record is damaged"), folder)
    except (OSError, ValueError, AttributeError):
        return RunOutcome(planned, "missing", folder=folder if folder.exists() else None)


def conclude(
    folder: Path, planned: Sequence[PlannedRun], command: str, report: ReportSettings, error: BaseException | None = None
) -> int:
    """Print it all; returns the exit code. `command` repeats the sweep; `error`: what ended the launching before its time."""
    results = run_outcomes(folder, planned)
    counts = Counter(result.state for result in results)
    print()
    print(f"sweep  {counts_text(counts, len(results))}  in {folder}")
    for line in failure_lines(results):
        print(line)
    print(f"report {report_path_or_reason(folder, report)}")
    print(f"look   tensorboard --logdir {shlex.quote(str(folder))}")
    code = exit_code(results, error)
    print(f"{'go on ' if code else 'repeat'} {command}")
    exit_codes.append(code)
    return code


def counts_text(counts: Counter[str], total: int) -> str:
    """`25 runs: 22 done, 2 diverged, 1 failed`."""
    parts = [f"{counts[state]} {STATE_TEXT.get(state, state)}" for state in STATE_ORDER if counts[state]]
    return f"{plural(total, 'run')}: {', '.join(parts) or 'nothing to do'}"


def failure_lines(results: Sequence[RunOutcome]) -> list[str]:
    """A table of what failed; what was interrupted or not started is counted only."""
    failed = [result for result in results if result.state in ("failed", "lost")]
    lines = []
    for result in failed[:SHOWN_FAILURES]:
        lines.append(f"  {result.state}: {result.name}")
        lines.append(f"    {result.reason or 'no reason is known'}")
        if (log := _log_of(result.folder)) is not None:
            lines.append(f"    {log}")
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"  and {len(failed) - SHOWN_FAILURES} more")
    return lines


def _log_of(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    return next((folder / name for name in LOGS if (folder / name).exists()), folder)


def exit_code(results: Sequence[RunOutcome], error: BaseException | None) -> int:
    """0 when every planned run is a result; 128 + n when signal n ended the sweep; else 1."""
    if isinstance(error, Interrupted):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 0 if error is None and all(result.state in FINISHED for result in results) else 1


def report_path_or_reason(folder: Path, settings: ReportSettings) -> str:
    """Its path, or why there is none: a report that fails must not hide what the runs said."""
    try:
        from train.report.make import ReportOptions, make_report

        return str(make_report([folder], folder, ReportOptions(**settings.model_dump())))
    except UsageError as error:
        return f"none: {error}"
    except Exception as error:
        return f"none could be made ({type(error).__name__}: {error}); the runs are untouched"
