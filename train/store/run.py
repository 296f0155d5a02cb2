"""A run, read from the files of its run folder. It can be read at any time, also while the run is running."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import yaml

from train.errors import UsageError
from train.store.config_text import config_of, overrides_of
from train.store.files import CONFIG_FILE, METRICS_FILE, OVERRIDES_FILE, PREVIOUS, STATUS_FILE, SUMMARY_FILE
from train.store.identity import SEEDS, VERSION, arm_id, identity, run_id, upgraded
from train.store.lock import LockHolder, is_held
from train.store.overrides import drop_groups
from train.store.records import missing_records

State: TypeAlias = Literal["queued", "running", "done", "diverged", "failed", "interrupted", "lost", "incomplete"]
"""The state of a run. `lost`: its process ended without recording a status, for example by SIGKILL or a power cut. `incomplete`:
it had finished, but a part of its records is gone, so that it is no result."""

DataKnown: TypeAlias = Literal["recorded", "first batch", "unknown"]
"""How it is known with which data a run was made: it says so itself, or its first batch is that of a run which does."""

FINISHED = frozenset({"done", "diverged"})
"""The states that are results. Divergence is one: repeating the run would reproduce it."""


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    `choices`: config group -> chosen option; `summary`: empty until the run has ended normally, and of an incomplete one. `data`:
    the id of the data with which it is counted, empty if nothing tells; `data_known`: how that is known. `code`: of own parts, as
    `Inputs.code`; None if it is not recorded.
    """

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
    data: str = ""
    data_known: DataKnown = "unknown"
    code: Mapping[str, str] | None = None

    @property
    def first_batch(self) -> str:
        """The hash of the first batch as the model received it; empty if the run did not get so far or did not record it."""
        fingerprint = self.summary.get("fingerprint")
        batch = fingerprint.get("first_batch") if isinstance(fingerprint, Mapping) else None
        return str(batch.get("sha256", "")) if isinstance(batch, Mapping) else ""

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def seeds(self) -> Mapping[str, int]:
        """Role of randomness -> its seed."""
        return {role: int(value) for role, value in dict(self.config.get("seeds", {})).items()}

    @property
    def own_parts(self) -> tuple[str, ...]:
        """The arguments by which a command finds the user's own parts, besides the overrides. Older runs have none."""
        stored = self.status.get("own_parts")
        return tuple(map(str, stored)) if isinstance(stored, list) else ()

    @property
    def arm_overrides(self) -> tuple[str, ...]:
        """The overrides as typed, without the seeds."""
        return tuple(drop_groups(self.overrides, SEEDS))

    @property
    def metrics_file(self) -> Path:
        return self.folder / METRICS_FILE


def read_run(folder: Path) -> Run:
    """Read the run in `folder`. UsageError when there is no run, or its files are invalid."""
    try:
        status = _json(folder / STATUS_FILE)
        config = upgraded(_mapping(config_of(_text(folder / CONFIG_FILE)) or {}, CONFIG_FILE))
        overrides = overrides_of(_text(folder / OVERRIDES_FILE)) or []
        summary = _json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).exists() else {}
        state, reason = _state(status)
        if state == "running" and _ended(folder, status):
            # The run may have ended normally between the two checks, so read its last status again.
            status = _json(folder / STATUS_FILE)
            state, reason = _state(status)
            if state == "running":
                state, reason = "lost", "its process ended without recording why (killed, or the machine stopped)"
        if state in FINISHED and (missing := missing_records(folder, config, summary)):
            state, reason, summary = "incomplete", missing, {}
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: this is not a run folder: {error.filename and Path(error.filename).name} is missing."
        ) from None
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"{folder}: this run cannot be read ({type(error).__name__}: {error}).") from None
    data, recompute = str(status.get("data") or ""), _is_of_older_version(status)
    return Run(
        folder=folder,
        state=state,
        reason=reason,
        identity=run_id(identity(config), config, data) if recompute else str(status.get("identity", "")),
        arm=run_id(arm_id(config), config, data) if recompute else str(status.get("arm", "")),
        config=config,
        choices=_mapping(status.get("choices") or {}, "choices"),
        overrides=tuple(map(str, overrides)),
        status=status,
        summary=summary,
        data=data,
        data_known="recorded" if data else "unknown",
        code=_mapping(status["own_code"], "own_code") if "own_code" in status else None,
    )


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of status.json; empty if there is none or it is damaged."""
    try:
        return _json(folder / STATUS_FILE)
    except (OSError, ValueError):
        return {}


def _is_of_older_version(status: Mapping[str, Any]) -> bool:
    """Return whether the stored ids are of an earlier version of the identity, so that they must be recomputed."""
    return bool(status.get("identity")) and status.get("identity_version", 1) != VERSION


def find_runs(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield every run folder at or below `folders` once, sorted by name within each of them."""
    visited: set[Path] = set()
    for top in folders:
        resolved_top = top.resolve()
        for path in _walk(top):
            resolved = resolved_top / path.relative_to(top)  # no link lies between them
            if resolved not in visited:
                visited.add(resolved)
                yield path


def _walk(folder: Path) -> Iterator[Path]:
    if (folder / STATUS_FILE).exists():
        yield folder
        return
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        if child.is_dir() and not child.is_symlink() and child.name != PREVIOUS and not child.name.startswith("."):
            yield from _walk(child)


def _mapping(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no mapping")
    return content


def _json(path: Path) -> dict[str, Any]:
    return _mapping(json.loads(_text(path)), path.name)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _state(status: Mapping[str, Any]) -> tuple[State, str]:
    state = str(status.get("status", ""))
    if state not in get_args(State):
        raise ValueError(f"status.json has the status {state!r}")
    return cast(State, state), str(status.get("reason", ""))


def _ended(folder: Path, status: Mapping[str, Any]) -> bool:
    """Return whether the process of a run with the status `running` has ended. On another host only the lock can tell."""
    locked = is_held(folder)
    if locked is not None:
        return not locked
    return not LockHolder(int(status.get("pid", 0)), str(status.get("host")), since="").may_be_alive()
