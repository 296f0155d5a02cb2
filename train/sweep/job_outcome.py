"""How a job ended: the exit code of its process and what its folder says, put together into one state and one reason."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from train.errors import SIGNALLED, OutOfMemoryError, UsageError
from train.run.failure import write_failure
from train.run.signals import signal_with_number
from train.sweep.jobs import CONSOLE_LOG, Job
from train.sweep.progress import ENDED, State, read_status

TRANSIENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGBUS})
"""Signals that say something of the machine, not of the job, where none was sent from here: the system out of memory (also of
shared memory, SIGBUS), an administrator. A fault of the program, as SIGSEGV, would only come again."""


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job. `transient`: another attempt may well end otherwise."""

    state: State
    reason: str
    transient: bool


def resolve_outcome(job: Job, exit_code: int, seconds: float, limit_minutes: float | None, shared: bool) -> JobOutcome:
    """Read how the job ended; where its folder does not say, write it there. `shared`: other jobs use the same GPU's memory."""
    assert job.folder is not None
    status = read_status(job.folder)
    said = status.get("status")
    if said in ENDED and not (said == "interrupted" and job.timed_out):
        code = int(status.get("exit_code") or 0)
        by_others = said == "interrupted" and code - SIGNALLED not in job.sent
        return JobOutcome(said, str(status.get("reason", "")), by_others or (shared and code == OutOfMemoryError.exit_code))
    state, reason = _unsaid(job, exit_code, limit_minutes)
    code = SIGNALLED - exit_code if exit_code < 0 else exit_code or 1
    try:
        write_failure(job.folder, job.run_request, state, reason, exit_code=code, wall_s=round(seconds, 3))
    except (OSError, ValueError, UsageError) as error:
        reason += f"; its folder does not say so ({error})"
    return JobOutcome(state, reason, exit_code < 0 and -exit_code in TRANSIENT - job.sent)


def _unsaid(job: Job, exit_code: int, limit_minutes: float | None) -> tuple[Literal["failed", "interrupted"], str]:
    """For a job that did not write its own end."""
    assert job.folder is not None
    if job.timed_out:
        return "failed", f"stopped at its time limit, hydra.launcher.timeout_minutes={limit_minutes:g}"
    if exit_code < 0:
        by = signal_with_number(-exit_code)
        if -exit_code in job.sent:
            return "interrupted", f"ended by {by} when the sweep was stopped"
        hint = "; the system does this when memory runs out" if exit_code == -signal.SIGKILL else ""
        return "failed", f"killed by {by}{hint}"
    if job.sent and exit_code == SIGNALLED + signal.SIGINT:
        return "interrupted", "stopped before its first step"
    last = last_line(job.folder / CONSOLE_LOG)
    return "failed", f"its process ended with exit code {exit_code} before the run was over" + (f": {last}" if last else "")


def last_line(log: Path) -> str:
    """The last thing that the job printed; of a traceback, the error itself."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip().removeprefix("train: ")[:300] for line in reversed(lines) if line.strip()), "")
