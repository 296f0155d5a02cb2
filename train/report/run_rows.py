"""The runs that a page lists one by one, and the commands that repeat the runs of an arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.command import TO_RESUME, resume_command, train_command
from train.report.arms import Arm
from train.report.collect import FAILED
from train.report.evidence import run_finding
from train.report.history import History
from train.store.run import Run


@dataclass(frozen=True)
class RunRow:
    """A run that is listed individually: it failed, diverged, was interrupted or is running."""

    folder: str
    arm: str
    seed: int
    state: str
    reason: str


def listed_runs(
    arms: Iterable[Arm], labels: Mapping[str, str], histories: Mapping[Path, History], *states: str
) -> Iterator[RunRow]:
    """Yield the runs in any of `states`, including those at levels that were not chosen. `labels`: arm's id -> its name."""
    return (
        RunRow(str(run.folder), name, run.seed, run.state, _reason(run, histories[run.folder]))
        for arm in arms
        for name, runs in _runs_by_name(labels[arm.id], arm)
        for run in runs
        if run.state in states
    )


def _runs_by_name(name: str, arm: Arm) -> Iterable[tuple[str, Sequence[Run]]]:
    if arm.choice is None:
        return [(name, arm.runs)]
    return [(f"{name} {where}", runs) for where, runs in arm.choice.runs_by_level]


def _reason(run: Run, history: History) -> str:
    if run.state in ("running", "queued"):
        return _progress(run, history)
    text, separator, _ = run.reason.partition(TO_RESUME)  # what a run printed may trust packages, which a stored text must not
    resumes = f"to resume: {resume_command(run.folder)}" if separator else ""
    reason = "; ".join(filter(None, (text, run_finding(run), resumes))) or ("no reason recorded" if run.state in FAILED else "")
    step = history.last_step
    return f"{reason} (last record: step {step:,})" if step and reason and run.state != "diverged" else reason


def _progress(run: Run, history: History) -> str:
    """Describe the last record of an incomplete run."""
    trainer = run.config.get("trainer")
    planned = trainer.get("epochs") if isinstance(trainer, dict) else None
    total = f" of {planned}" if planned is not None else ""
    last = [(tag, history.last(tag)) for tag in ("accuracy/val", "loss/train")]
    values = [f"{tag} {value:.4g}" for tag, value in last if math.isfinite(value)]
    if not history.last_step and not values:
        return "no record yet"
    return f"at step {history.last_step:,}, epoch {history.last_epoch:.2f}{total}" + "".join(f", {value}" for value in values)


def commands(arm: Arm) -> Iterator[str]:
    """Yield the commands that reproduce the runs of an arm; for an arm without runs, one command without seeds."""
    return (train_command(item.overrides) for item in (arm.runs or [arm]))
