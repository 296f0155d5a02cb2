"""What a run folder says of its run. Read from files alone, at any time, also while the run is going on."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import yaml

from train.errors import UsageError
from train.ledger.identity import SEEDS

State: TypeAlias = Literal["queued", "running", "done", "diverged", "failed", "interrupted", "lost"]
"""`lost`: it was running when its process ended without a word, as by SIGKILL or a power cut."""

ENDED_BY_ITSELF = frozenset({"done", "diverged"})
"""A diverged run is a result: repeating it would give it again."""

PREVIOUS = "previous"
"""Subfolder of a sweep in which attempts lie that were made again; nobody reads it."""


@dataclass(frozen=True)
class Run:
    """One run folder. `summary` is empty until the run ended in an orderly way; `choices`: option group -> chosen option."""

    folder: Path
    state: State
    reason: str
    identity: str
    arm: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    status: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def seeds(self) -> Mapping[str, int]:
        """Of every role of randomness."""
        return {role: int(value) for role, value in dict(self.config.get("seeds", {})).items()}

    @property
    def arm_overrides(self) -> tuple[str, ...]:
        """What was typed, without the seeds."""
        return tuple(o for o in self.overrides if o.lstrip("+~").partition("=")[0].partition(".")[0] not in SEEDS)

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"


def read_run(folder: Path) -> Run:
    """UsageError when `folder` holds no run, or files that no run writes."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        config = _yaml(folder / "config.yaml") or {}
        overrides = _yaml(folder / "overrides.yaml") or []
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8")) if (folder / "summary.json").exists() else {}
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: this is no run folder, it has no {error.filename and Path(error.filename).name}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{folder}: this run cannot be read ({type(error).__name__}: {error}).") from None
    state, reason = _state(status)
    return Run(
        folder=folder,
        state=state,
        reason=reason,
        identity=str(status.get("identity", "")),
        arm=str(status.get("arm", "")),
        config=config,
        choices=dict(status.get("choices") or {}),
        overrides=tuple(map(str, overrides)),
        status=status,
        summary=summary,
    )


def find_runs(folders: Iterable[Path]) -> Iterator[Path]:
    """Every run folder at or below `folders`, each once, in the order of their names."""
    seen: set[Path] = set()
    for top in folders:
        for path in _walk(top):
            if (known := path.resolve()) not in seen:
                seen.add(known)
                yield path


def _walk(folder: Path) -> Iterator[Path]:
    if (folder / "status.json").exists():
        yield folder
        return
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        if child.is_dir() and not child.is_symlink() and child.name != PREVIOUS and not child.name.startswith("."):
            yield from _walk(child)


def _yaml(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it, is ten times faster
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _state(status: Mapping[str, Any]) -> tuple[State, str]:
    said = str(status.get("status", ""))
    if said not in get_args(State):
        raise ValueError(f"status.json has the status {said!r}")
    if said == "running" and status.get("host") == socket.gethostname() and not _alive(int(status.get("pid", 0))):
        return "lost", "its process ended without saying why (killed, or the machine stopped)"
    return cast(State, said), str(status.get("reason", ""))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
