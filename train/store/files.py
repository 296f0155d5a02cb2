"""The names of the files in a run folder and in a sweep's folder, and writing a file so that readers never see half of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.store.inside import Folder

STATUS_FILE = "status.json"
CONFIG_FILE = "config.yaml"
OVERRIDES_FILE = "overrides.yaml"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
WEIGHTS_FILE = "weights.pt"
DATA_FILE = "data.json"
NOTES_FILE = "notes.json"
"""What a person says of a run or a sweep: nothing in it changes a result."""
LOG_FILE = "train.log"
CONSOLE_LOG = "console.log"
"""The output and traceback of the process of a sweep's job."""
LOCK_FILE = ".lock"
CHECKPOINTS_FOLDER = "checkpoints"
FIGURES_FOLDER = "figures"
EVENTS = "events.out.tfevents"
"""The beginning of the names of TensorBoard's files."""
EVENT_FILES = f"{EVENTS}.*"

MANIFEST_FILE = "sweep.json"
MANIFEST_LOCK = ".sweep.lock"
"""Held while a process reads, changes and writes the manifest: a report may do so while a sweep runs."""
SUMMARY = "summary"
"""Subfolder of a sweep with the arms' means for TensorBoard. It has no status.json, so it is never mistaken for a run."""
PREVIOUS = "previous"
"""Subfolder of a sweep for archived attempts whose runs were rerun. Nothing reads it."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file atomically by `content` as JSON. ValueError for NaN and infinity."""
    write_atomic(path, encode_json(content))


def encode_json(content: Mapping[str, Any]) -> bytes:
    """Return `content` as the text of a file of JSON. ValueError for NaN and infinity."""
    return (json.dumps(content, indent=2, allow_nan=False, default=str) + "\n").encode()


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file of a run or sweep folder atomically and durably, as `Folder.write` does."""
    Folder(path.parent).write(path.name, content)
