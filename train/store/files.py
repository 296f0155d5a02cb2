"""The names of the files in a run folder and in a sweep's folder, and writing a file so that readers never see half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATUS_FILE = "status.json"
CONFIG_FILE = "config.yaml"
OVERRIDES_FILE = "overrides.yaml"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
WEIGHTS_FILE = "weights.pt"
DATA_FILE = "data.json"
LOG_FILE = "train.log"
CONSOLE_LOG = "console.log"
"""The output and traceback of the process of a sweep's job."""
LOCK_FILE = ".lock"
CHECKPOINTS_FOLDER = "checkpoints"
FIGURES_FOLDER = "figures"
EVENT_FILES = "events.out.tfevents.*"

MANIFEST_FILE = "sweep.json"
PREVIOUS = "previous"
"""Subfolder of a sweep for archived attempts whose runs were rerun. Nothing reads it."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file atomically by `content` as JSON. ValueError for NaN and infinity."""
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False, default=str) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` atomically and durably: readers see the old or the new content, also after a crash."""
    temporary = path.with_name(f".{path.name[-200:]}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
