"""What became of each job so far: read from the run folders while others write them, and shown by `train.sweep.display`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["waiting", "running", "done", "diverged", "failed", "interrupted", "not started"]
ENDED: tuple[State, ...] = ("done", "diverged", "failed", "interrupted")
ACCURACIES = ("accuracy/test", "accuracy/val", "accuracy/train")
"""Which accuracy is shown: the first of these that was measured."""


@dataclass
class JobRow:
    """One job. Times are seconds on one steady clock; `accuracy` is a fraction, `accuracy_of` its split."""

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
    total: int | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    remaining_s: float | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def started(self) -> bool:
        return self.state not in ("waiting", "not started")

    @property
    def fraction(self) -> float | None:
        """Of the steps; None until their number is known."""
        return None if self.total is None else min(1.0, self.step / self.total) if self.total else 1.0

    def seconds(self, now: float) -> float:
        return (self.ended_at if self.has_ended else now) - self.started_at if self.started else 0.0


@dataclass
class JobProgress:
    """Follows the files of one running job; each look reads what is new."""

    folder: Path
    _offset: int = 0
    _first: tuple[int, float] | None = None
    _found: dict[str, float] = field(default_factory=dict)

    def update(self, row: JobRow) -> None:
        """Bring the row up to date."""
        if row.total is None:
            row.total = read_status(self.folder).get("total_steps")
        for record in self._new_records():
            step, time_s = int(record["step"]), float(record["time_s"])
            self._first = self._first or (step, time_s)
            row.step = step
            for tag in ACCURACIES:
                if isinstance(value := record["values"].get(tag), float):
                    self._found[tag] = value
            if row.total is not None and step > self._first[0]:
                row.remaining_s = (row.total - step) * (time_s - self._first[1]) / (step - self._first[0])
        for tag in ACCURACIES:
            if tag in self._found:
                row.accuracy, row.accuracy_of = self._found[tag], tag.partition("/")[2]
                break

    def _new_records(self) -> Iterable[dict[str, Any]]:
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        whole = text.rfind(b"\n") + 1
        self._offset += whole
        for line in text[:whole].splitlines():
            with contextlib.suppress(ValueError):  # a view goes on where a report would stop
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("values"), dict):
                    yield record


def read_status(folder: Path) -> dict[str, Any]:
    """status.json; empty while there is none."""
    try:
        content = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def remaining_s(rows: Sequence[JobRow], places: int, now: float) -> float | None:
    """Until the whole sweep is over, if jobs go on as those so far; None before anything is known."""
    running = [row for row in rows if row.state == "running"]
    expected = [row.seconds(now) for row in rows if row.state == "done"]
    expected = expected or [row.seconds(now) + row.remaining_s for row in running if row.remaining_s is not None]
    if not expected:
        return None
    each = mean(expected)
    remains = [row.remaining_s if row.remaining_s is not None else max(0.0, each - row.seconds(now)) for row in running]
    waiting = sum(row.state == "waiting" for row in rows)
    return max([(sum(remains) + waiting * each) / places, *remains])


def state_counts(rows: Sequence[JobRow]) -> dict[State, int]:
    """Of the states that occur, in the order of a job's life."""
    order: tuple[State, ...] = (*ENDED, "running", "waiting", "not started")
    return {state: count for state in order if (count := sum(row.state == state for row in rows))}


def job_labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What tells each job from the others: its overrides that not all of them have; all of its own when there is only one."""
    common = set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set[str]()
    shown = ([o for o in job if o not in common and not o.startswith(("hydra.", "resume="))] for job in jobs)
    return [" ".join(overrides) or "the defaults" for overrides in shown]
