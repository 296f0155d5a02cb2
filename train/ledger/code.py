"""Which code makes a run what it is, so that two runs of the same configuration are known to be the same experiment.

A commit would not tell: it changes with the documentation, and does not change with an edit that was not committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOMS = ("run", "observe", "data", "parts", "config.py", "rng.py")
"""What a run's numbers depend on. Reports, sinks and sweeps may change between two runs of one experiment."""

VERSION_OF = "torch"


@cache
def code_id() -> str:
    """Twelve hexadecimal digits: of the sources that make a run's numbers."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for room in ROOMS:
        top = package / room
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def other_code(status: Mapping[str, Any]) -> str:
    """In what the code of the run with this status.json differs from the present one; empty when in nothing."""
    made = dict(status.get("versions") or {})
    now = metadata.version(VERSION_OF)
    if made.get(VERSION_OF, now) != now:
        return f"made with {VERSION_OF} {made[VERSION_OF]}, this is {now}"
    if status.get("code", "") != code_id():
        return "made by another version of this program"
    return ""
