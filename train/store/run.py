"""What a run folder says of its run. Read from files alone, at any time, also while the run is going on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import yaml

from train.errors import UsageError
from train.store.identity import SEEDS, VERSION, arm_id, identity, upgraded
from train.store.lock import is_held, is_process_alive
from train.store.overrides import drop_groups

State: TypeAlias = Literal["queued", "running", "done", "diverged", "failed", "interrupted", "lost"]
"""`lost`: it was running when its process ended without a word, as by SIGKILL or a power cut."""

FINISHED = frozenset({"done", "diverged"})
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
        return tuple(drop_groups(self.overrides, SEEDS))

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"


def read_run(folder: Path) -> Run:
    """UsageError when `folder` holds no run, or files that no run writes."""
    try:
        status = _mapping(json.loads((folder / "status.json").read_text(encoding="utf-8")), "status.json")
        config = upgraded(_mapping(_yaml(folder / "config.yaml") or {}, "config.yaml"))
        overrides = _yaml(folder / "overrides.yaml") or []
        summary = _summary(folder / "summary.json")
        state, reason = _state(status)
        if state == "running" and _ended(folder, status):
            # Between the two looks it may have ended in good order: what it says last counts.
            status = _mapping(json.loads((folder / "status.json").read_text(encoding="utf-8")), "status.json")
            state, reason = _state(status)
            if state == "running":
                state, reason = "lost", "its process ended without saying why (killed, or the machine stopped)"
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: this is no run folder, it has no {error.filename and Path(error.filename).name}.") from None
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"{folder}: this run cannot be read ({type(error).__name__}: {error}).") from None
    return Run(
        folder=folder,
        state=state,
        reason=reason,
        identity=identity(config) if _is_of_older_version(status) else str(status.get("identity", "")),
        arm=arm_id(config) if _is_of_older_version(status) else str(status.get("arm", "")),
        config=config,
        choices=_mapping(status.get("choices") or {}, "choices"),
        overrides=tuple(map(str, overrides)),
        status=status,
        summary=summary,
    )


def _is_of_older_version(status: Mapping[str, Any]) -> bool:
    """Return whether the stored ids were made by an earlier version of the identity, so that they are computed anew."""
    return bool(status.get("identity")) and status.get("identity_version", 1) != VERSION


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


def _mapping(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no mapping")
    return content


def _summary(path: Path) -> dict[str, Any]:
    """Empty where there is none yet."""
    return _mapping(json.loads(path.read_text(encoding="utf-8")), path.name) if path.exists() else {}


def _yaml(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it, is ten times faster
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _state(status: Mapping[str, Any]) -> tuple[State, str]:
    said = str(status.get("status", ""))
    if said not in get_args(State):
        raise ValueError(f"status.json has the status {said!r}")
    return cast(State, said), str(status.get("reason", ""))


def _ended(folder: Path, status: Mapping[str, Any]) -> bool:
    """Whether the process that says of itself that it is running is gone. Of another host's, only the lock can tell."""
    held = is_held(folder)
    if held is not None:
        return not held
    return status.get("host") == socket.gethostname() and not is_process_alive(int(status.get("pid", 0)))
