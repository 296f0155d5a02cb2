"""Whether the records of a run that has ended are all there: a copy that broke off, or a full disk, may have left a part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.store.files import METRICS_FILE
from train.store.inside import Folder
from train.store.metrics import INVALID, bounded_lines, parse_record

_TRAIN, _TEST = b'"loss/train"', b'"loss/test"'
_END = 1 << 14
"""Bytes at the end of the file that hold its last records, unless these observe a very deep network."""
_STEP = re.compile(rb'\{"step": ?(\d{1,18})[,}]')


def missing_records(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any], whole: bool = True) -> str:
    """Return what is missing in the records of a run that is done or has diverged; empty when nothing is.

    Its last record is that of its last step, for a run that is done the one of the test split, and each step that
    `trainer.record_every` names has one of the training loss. `config`: the resolved experiment. Reads the file once; unless
    `whole`, its end alone, which tells nothing of a step in between.
    """
    try:
        last, reached, due = _scan(folder, config) if whole else _end(folder, config)
    except FileNotFoundError:
        return f"{METRICS_FILE} is missing"
    except OSError as error:
        return f"{METRICS_FILE} cannot be read ({error.strerror})"
    if not last.endswith(b"\n"):
        return f"the last line of {METRICS_FILE} is torn" if last else f"{METRICS_FILE} is empty"
    steps, reached = _count(summary, "steps"), max(reached, _step(last) or 0)
    if steps is None:
        return ""
    if reached < steps:
        return f"the records in {METRICS_FILE} end at step {reached} of {steps}"
    if summary.get("test_loss") is not None and _TEST not in last:
        return f"{METRICS_FILE} ends without the record of the test split"
    demanded = f"{METRICS_FILE} has no record of step {due}, which trainer.record_every={_every(config)} demands"
    return demanded if 0 < due <= steps else ""


def reach(folder: Path, config: Mapping[str, Any], step: int) -> bool:
    """Return whether the records hold the training loss of every step up to `step` that is due. A torn line does not count."""
    try:
        _, _, due = _scan(folder, config)
    except OSError:
        return False
    return due > step or not due


def _scan(folder: Path, config: Mapping[str, Any]) -> tuple[bytes, int, int]:
    """Return the last line, the last step with a training loss, and the first step that is due and has none (0 if none ever is).

    Line by line; lines with layer statistics are not parsed.
    """
    last, reached, has_gap = b"", 0, False
    due = every = _every(config)
    with Folder(folder).open(METRICS_FILE) as file:
        for line in bounded_lines(file):
            last = line
            if _TRAIN in line and line.endswith(b"\n") and (step := _step(line)) is not None:
                reached = max(reached, step)
                has_gap = has_gap or step > due  # an earlier step than the last: older versions repeated steps as they resumed
                due += 0 if has_gap or step != due else every
    return last, reached, due


def _end(folder: Path, config: Mapping[str, Any]) -> tuple[bytes, int, int]:
    """Return the last line and the last step, as `_scan` does, from the end of the file alone."""
    content = Folder(folder).tail(METRICS_FILE, _END)
    lines = content.splitlines(keepends=True)[int(len(content) == _END) :]
    if not lines and content:
        return _scan(folder, config)
    return lines[-1] if lines else b"", max((_step(line) or 0 for line in lines), default=0), 0


def _every(config: Mapping[str, Any]) -> int:
    return _count(config.get("trainer"), "record_every") or 0


def _step(line: bytes) -> int | None:
    """Return the step of a record; None for a line that is no record."""
    if match := _STEP.match(line):
        return int(match[1])
    try:
        return parse_record(line).step
    except INVALID:
        return None


def _count(content: Any, key: str) -> int | None:
    """Return a whole number that is not negative; None for anything else."""
    value = content.get(key) if isinstance(content, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
