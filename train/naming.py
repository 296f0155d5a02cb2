"""Names of run folders: readable, sortable by time, unique even for runs that start in the same instant."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable

SLUG_BYTES = 120
"""File systems allow 255 bytes to a name; date, time and the random part need 24, a sweep's hash 9."""


def slug(overrides: Iterable[str]) -> str:
    """`['init=xavier', 'norm=batch']` -> `init=xavier,norm=batch`, safe as a file name on every system and in a URL."""
    text = ",".join(overrides) or "defaults"
    safe = re.sub(r"[^A-Za-z0-9=.,_+~-]+", "-", text).strip("-.")
    return (safe or "run")[:SLUG_BYTES]


def stamp() -> str:
    """Date, time and five random characters. The folder is claimed exclusively later; the random part makes that succeed."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return time.strftime("%Y-%m-%d_%H-%M-%S_") + "".join(secrets.choice(alphabet) for _ in range(5))


def run_name(overrides: Iterable[str]) -> str:
    """The folder name of one run."""
    return f"{stamp()}_{slug(overrides)}"


def job_name(overrides: Iterable[str]) -> str:
    """The folder name of a run within its sweep: the same for the same overrides, whatever place they have in the sweep."""
    lines = [str(line) for line in overrides]
    return f"{slug(lines)}_{hashlib.sha256(chr(0).join(lines).encode()).hexdigest()[:8]}"


def sweep_name() -> str:
    """The folder name of one multirun."""
    return f"{stamp()}_sweep"
