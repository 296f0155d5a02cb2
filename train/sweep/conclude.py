"""The conclusion of a sweep: the outcome of every run, the report, the command that resumes it, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.command import TO_RESUME, tensorboard_command
from train.errors import Interrupted, UsageError, remedy
from train.escape import line
from train.report.make import make_report
from train.report.options import ReportOptions
from train.store.files import CONSOLE_LOG, LOG_FILE, SUMMARY
from train.store.inside import is_there
from train.store.manifest import PlannedRun
from train.store.planned_names import run_names
from train.store.run import FINISHED, Run, read_status
from train.streams import say
from train.sweep.reuse import latest_attempts, queued_runs, stored_runs
from train.text import plural

MAX_FAILURES = 20
MOST_SELECTED = 40
"""Runs of which TensorBoard selects all at the start, in the tabs that have a box for a part of their names."""
LOGS = (LOG_FILE, CONSOLE_LOG)
"""Files that tell why a run failed: its own log, or the output of its process."""

STATE_ORDER = ("done", "diverged", "failed", "incomplete", "interrupted", "lost", "running", "queued", "missing")
STATE_TEXT = {
    "lost": "lost (process killed)",
    "running": "still running in another process",
    "queued": "queued in Slurm",
    "missing": "not started",
}

exit_codes: list[int] = []
"""Exit codes of the sweeps that this process concluded. `train.cli` exits with the last; those of single jobs are ignored."""

unwritten: dict[Path, str] = {}
"""Folder -> why a run failed in it, of the runs of this process that could not write it there. Paths are absolute."""


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a planned run. `folder`: None when there is none; `is_held`: Slurm makes the run sooner or later."""

    planned: PlannedRun
    state: str
    reason: str = ""
    folder: Path | None = None
    is_held: bool = False


def explain_unwritten(folder: Path, error: OSError) -> str:
    """Return the reason of a job whose folder cannot be made, or the log in it."""
    return f"its folder cannot be made or written ({error.filename or folder}: {error.strerror}).{remedy(error)}"


def run_outcomes(folder: Path, planned: Sequence[PlannedRun], stored: Iterable[Run]) -> list[RunOutcome]:
    """Return the outcome of each planned run: that of the `stored` runs of the folder, or of `unwritten` where there is none."""
    runs, queued = latest_attempts(stored), queued_runs(folder)
    outcomes = []
    for planned_run in planned:
        run, path = runs.get(planned_run.identity), folder / planned_run.folder
        if (reason := unwritten.get(path.absolute())) is not None:
            outcomes.append(RunOutcome(planned_run, "failed", reason, path))
        elif planned_run.identity in queued and (run is None or run.state not in (*FINISHED, "running")):
            outcomes.append(RunOutcome(planned_run, "queued", folder=run.folder if run else None, is_held=True))
        elif run is not None:
            is_held = planned_run.identity in queued and run.state == "running"
            outcomes.append(RunOutcome(planned_run, run.state, run.reason.partition(TO_RESUME)[0], run.folder, is_held))
        else:
            outcomes.append(_without_record(planned_run, path))
    return outcomes


def _without_record(planned: PlannedRun, folder: Path) -> RunOutcome:
    """Return the outcome of a run without a readable record: it never started, or its process died while writing."""
    if status := read_status(folder):
        return RunOutcome(planned, "failed", str(status.get("reason") or "its record is damaged"), folder)
    return RunOutcome(planned, "missing", folder=folder if is_there(folder) else None)


def conclude(
    folder: Path, planned: Sequence[PlannedRun], command: str, report: ReportOptions, error: BaseException | None = None
) -> int:
    """Print the outcomes, the report and the commands for the next steps; return the exit code.

    `command` repeats the sweep; `error`: the exception that ended the launcher early.
    """
    outcomes = run_outcomes(folder, planned, stored_runs(folder))
    counts = Counter(outcome.state for outcome in outcomes)
    say()
    say(f"sweep  {counts_text(counts, len(outcomes))}  in {folder}")
    for text in failure_lines(outcomes, run_names(folder)):
        say(text, wraps=True)
    if all(outcome.is_held for outcome in outcomes):  # just submitted: there is nothing to report
        exit_codes.append(exit_code(outcomes, error))
        say(f"repeat {command}")
        return exit_codes[-1]
    say(report_or_reason(folder, report), wraps=True)
    say(f"view   {tensorboard_command(folder)}")
    if len(outcomes) > MOST_SELECTED:
        say(
            f"       It selects none of more than {MOST_SELECTED} runs: type {SUMMARY} above their list for the arms alone.",
            wraps=True,
        )
    code = exit_code(outcomes, error)
    say(f"{'resume' if code else 'repeat'} {command}")
    exit_codes.append(code)
    return code


def counts_text(counts: Counter[str], total: int) -> str:
    """Format the counts as `25 runs: 22 done, 2 diverged, 1 failed`."""
    parts = [f"{counts[state]} {STATE_TEXT.get(state, state)}" for state in STATE_ORDER if counts[state]]
    return f"{plural(total, 'run')}: {', '.join(parts) or 'no runs'}"


def failure_lines(outcomes: Sequence[RunOutcome], names: Mapping[tuple[str, ...], str]) -> list[str]:
    """Return a list of the failed, lost and incomplete runs with reasons and logs. Others without a result are only counted.

    `names`: overrides -> name.
    """
    failed = [outcome for outcome in outcomes if outcome.state in ("failed", "lost", "incomplete")]
    lines = []
    for outcome in failed[:MAX_FAILURES]:
        overrides = outcome.planned.overrides
        lines.append(f"  {outcome.state}: {names.get(overrides) or ' '.join(overrides) or 'defaults'}")
        lines.append(f"    {outcome.reason or 'reason unknown'}")
        if (log := _log_path(outcome.folder)) is not None:
            lines.append(f"    {log}")
    if len(failed) > MAX_FAILURES:
        lines.append(f"  and {len(failed) - MAX_FAILURES} more")
    return [line(text) for text in lines]


def _log_path(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    return next((folder / name for name in LOGS if is_there(folder / name)), folder)


def exit_code(outcomes: Sequence[RunOutcome], error: BaseException | None) -> int:
    """Return 0 when every planned run is done, diverged or in Slurm's hands, 128 + n when signal n ended the sweep, else 1."""
    if isinstance(error, Interrupted):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 0 if error is None and all(outcome.state in FINISHED or outcome.is_held for outcome in outcomes) else 1


def report_or_reason(folder: Path, options: ReportOptions) -> str:
    """Write the report; return its verdicts, its table of arms and its path, or why there is none.

    A failed report must not hide the results of the runs.
    """
    try:
        return make_report([folder], folder, options)[1]
    except UsageError as error:
        return line(f"report none: {error}")
    except Exception as error:
        return line(f"report none: writing it failed ({type(error).__name__}: {error}). The runs are unaffected.")
