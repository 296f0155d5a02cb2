"""Names of run folders: readable, sortable by time, and unique even for runs that start at the same moment."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable

SLUG_BYTES = 120
"""Maximum length of a slug. File systems allow 255 bytes per name; date, time and random part take 24, a job's hash 9."""


def slug(overrides: Iterable[str]) -> str:
    """Join overrides to a text that is safe as a file name on every system and in a URL.

    `['init=xavier', 'norm=batch']` -> `init=xavier,norm=batch`.
    """
    text = ",".join(overrides) or "defaults"
    safe = re.sub(r"[^A-Za-z0-9=.,_+~-]+", "-", text).strip("-.")
    return (safe or "run")[:SLUG_BYTES]


def stamp() -> str:
    """Return date, time and five random characters, which let the later exclusive claim of the folder succeed."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return time.strftime("%Y-%m-%d_%H-%M-%S_") + "".join(secrets.choice(alphabet) for _ in range(5))


def run_name(overrides: Iterable[str]) -> str:
    """Return the folder name of a single run."""
    return f"{stamp()}_{slug(overrides)}"


def job_name(overrides: Iterable[str]) -> str:
    """Return the folder name of a run within its sweep. It depends on the overrides alone, not on the position in the sweep."""
    lines = [str(line) for line in overrides]
    return f"{slug(lines)}_{hashlib.sha256(chr(0).join(lines).encode()).hexdigest()[:8]}"


def sweep_name() -> str:
    """Return the folder name of a sweep."""
    return f"{stamp()}_sweep"
