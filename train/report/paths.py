"""Paths as a page shows them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


def relative_path(path: Path | str, out: Path) -> str:
    """Return `path` relative to the report's folder if it is below it, else unchanged."""
    path = Path(path) if isinstance(path, str) else path
    parts, above = path.parts, out.parts
    if parts[: len(above)] == above and ".." not in parts:  # no link lies between a folder and the runs found in it
        return str(Path(*parts[len(above) :]))
    try:
        return str(path.resolve().relative_to(_resolved(out)))
    except ValueError:
        return str(path)


@lru_cache(maxsize=4)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
