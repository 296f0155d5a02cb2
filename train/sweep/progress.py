"""The progress of each job, read from run folders while their runs write them, for `train.sweep.display`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Literal, TypeAlias

from train.store.files import METRICS_FILE
from train.store.metrics import INVALID, Record, parse_record, read_lines
from train.store.planned_names import run_names, trial_runs
from train.store.run import read_status

State: TypeAlias = Literal["waiting", "running", "done", "diverged", "failed", "interrupted", "not started"]
END_STATES: tuple[State, ...] = ("done", "diverged", "failed", "interrupted")
Split: TypeAlias = Literal["test", "val", "train"]
SPLITS: tuple[Split, ...] = ("test", "val", "train")


@dataclass
class JobRow:
    """The state of one job. Times are seconds on one monotonic clock.

    `accuracies`: split -> the newest accuracy on it, a fraction; `tries`: whether the run only tries a level of tuned keys.
    """

    number: int
    label: str
    state: State = "waiting"
    device: str = ""
    reason: str = ""
    folder: Path | None = None
    attempt: int = 1
    started_at: float = 0.0
    ended_at: float = 0.0
    step: int = 0
    total_steps: int | None = None
    accuracies: dict[Split, float] = field(default_factory=dict)
    tries: bool = False
    remaining_s: float | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in END_STATES

    @property
    def has_started(self) -> bool:
        return self.state not in ("waiting", "not started")

    @property
    def fraction(self) -> float | None:
        """The completed fraction of the train steps; None until their number is known."""
        return None if self.total_steps is None else min(1.0, self.step / self.total_steps) if self.total_steps else 1.0

    def seconds(self, now: float) -> float:
        return (self.ended_at if self.has_ended else now) - self.started_at if self.has_started else 0.0


@dataclass
class JobProgress:
    """A reader of the files of one running job; each `update` reads only what is new."""

    folder: Path
    _offset: int = 0
    _first_record: Record | None = None

    def update(self, row: JobRow) -> None:
        """Read new records and update the row."""
        if row.total_steps is None:
            row.total_steps = read_status(self.folder).get("total_steps")
        for record in self._new_records():
            self._first_record = self._first_record or record
            row.step = record.step
            for split in SPLITS:
                if isinstance(value := record.values.get(f"accuracy/{split}"), float) and math.isfinite(value):
                    row.accuracies[split] = value
            if row.total_steps is not None and (steps := record.step - self._first_record.step) > 0:
                row.remaining_s = (row.total_steps - record.step) * (record.time_s - self._first_record.time_s) / steps

    def _new_records(self) -> Iterable[Record]:
        try:
            lines = read_lines(self.folder / METRICS_FILE, self._offset)
        except OSError:
            return
        self._offset += sum(map(len, lines))
        for line in lines:
            with contextlib.suppress(*INVALID):  # the display skips a damaged line, where a report would stop
                yield parse_record(line)


def remaining_s(rows: Sequence[JobRow], slots: int, now: float) -> float | None:
    """Return the estimated seconds until the sweep ends, from its jobs so far; None without any estimate."""
    running = [row for row in rows if row.state == "running"]
    expected = [row.seconds(now) for row in rows if row.state == "done"]
    expected = expected or [row.seconds(now) + row.remaining_s for row in running if row.remaining_s is not None]
    if not expected:
        return None
    job_s = mean(expected)
    remaining = [row.remaining_s if row.remaining_s is not None else max(0.0, job_s - row.seconds(now)) for row in running]
    waiting = sum(row.state == "waiting" for row in rows)
    return max([(sum(remaining) + waiting * job_s) / slots, *remaining])


def state_counts(rows: Sequence[JobRow]) -> dict[State, int]:
    """Return how many jobs are in each state that occurs: ended ones first, then running and waiting."""
    order: tuple[State, ...] = (*END_STATES, "running", "waiting", "not started")
    return {state: count for state in order if (count := sum(row.state == state for row in rows))}


def shown_split(rows: Sequence[JobRow]) -> Split:
    """Return the split whose accuracy the display shows of all jobs, so that a column has one meaning.

    It is the test split once all have ended, but for runs that only try levels: a level is chosen without it. Before, it is the
    validation split, or the training split of a sweep whose runs have no other.
    """
    if any(row.tries or row.state in ("waiting", "running") for row in rows):
        done = [row for row in rows if row.state == "done"]
        return "train" if done and not any("val" in row.accuracies for row in done) else "val"
    measured = {split for row in rows for split in row.accuracies}
    return "test" if "test" in measured else "val" if "val" in measured else "train"


def rows_of(jobs: Sequence[Sequence[str]], folder: Path) -> list[JobRow]:
    """Return a row per job of the sweep in `folder`."""
    trials = trial_runs(folder)
    labels = enumerate(zip(jobs, job_labels(jobs, folder), strict=True), 1)
    return [JobRow(number, label, tries=_of_run(job) in trials) for number, (job, label) in labels]


def job_labels(jobs: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """Return a label per job: its name in the plan in `folder`, by its overrides without `hydra.*` and `resume`.

    For a job that no plan has, those overrides that not all jobs share, all if there is one job.
    """
    planned = run_names(folder)
    of_runs = [*map(_of_run, jobs)]
    common = set(of_runs[0]).intersection(*of_runs[1:]) if len(jobs) > 1 else set[str]()
    distinct = [" ".join(o for o in overrides if o not in common) or "the defaults" for overrides in of_runs]
    return [planned.get(overrides) or label for overrides, label in zip(of_runs, distinct, strict=True)]


def _of_run(job: Sequence[str]) -> tuple[str, ...]:
    return tuple(override for override in job if not override.startswith(("hydra.", "resume=")))
