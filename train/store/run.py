"""A run, read from the files of its run folder. It can be read at any time, also while the run is running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from train.errors import UsageError
from train.store.files import METRICS_FILE, PREVIOUS, STATUS_FILE, SUMMARY_FILE
from train.store.identity import SEEDS, VERSION, arm_id, identity, run_id, upgraded
from train.store.inside import Folder
from train.store.lock import LockHolder, is_held
from train.store.notes import is_archived
from train.store.overrides import drop_groups
from train.store.records import missing_records
from train.store.stored import read_config, read_overrides, read_stored

State: TypeAlias = Literal["queued", "running", "done", "diverged", "failed", "interrupted", "lost", "incomplete"]
"""The state of a run. `lost`: its process ended without recording a status, for example by SIGKILL or a power cut. `incomplete`:
it had finished, but a part of its records is gone, so that it is no result."""

DataKnown: TypeAlias = Literal["recorded", "first batch", "unknown"]
"""How it is known with which data a run was made: it says so itself, or its first batch is that of a run which does."""

LONGEST_REASON = 4_000
"""Characters of a reason that are read: it stands on pages and in messages."""

ARCHIVED = "archived, and so left out; named itself, it counts"
"""The reason why `find_runs` leaves a folder out."""

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
        """The seed; 0 if there is none, or the run failed before it was resolved."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else 0

    @property
    def seeds(self) -> Mapping[str, int]:
        """Role of randomness -> its seed, as far as they were resolved."""
        return {role: seed for role, seed in (self.config.get("seeds") or {}).items() if isinstance(seed, int)}

    @property
    def own_parts(self) -> tuple[str, ...]:
        """The arguments by which a command finds the user's own parts, besides the overrides. Older runs have none."""
        return tuple(self.status.get("own_parts") or ())

    @property
    def arm_overrides(self) -> tuple[str, ...]:
        """The overrides as typed, without the seeds."""
        return tuple(drop_groups(self.overrides, SEEDS))

    @property
    def metrics_file(self) -> Path:
        return self.folder / METRICS_FILE


def read_run(folder: Path, whole: bool = True) -> Run:
    """Read the run in `folder`. UsageError when there is no run, or its files are invalid.

    `whole`: whether all its records are looked at for what is missing, or their end alone, which takes no time.
    """
    try:
        status = read_stored(folder, STATUS_FILE)
        config = upgraded(read_config(folder))
        overrides = read_overrides(folder)
        summary = _summary(folder)
        state, reason = _state(status)
        if state == "running" and _ended(folder, status):
            # The run may have ended normally between the two checks, so read its last status again.
            status = read_stored(folder, STATUS_FILE)
            state, reason = _state(status)
            if state == "running":
                state, reason = "lost", "its process ended without recording why (killed, or the machine stopped)"
        if state in FINISHED and (missing := missing_records(folder, config, summary, whole)):
            state, reason, summary = "incomplete", missing, {}
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: this is not a run folder: {error.filename and Path(error.filename).name} is missing."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: this run cannot be read ({error}).") from None
    data, recompute = status.get("data") or "", _is_of_older_version(status)
    return Run(
        folder=folder,
        state=state,
        reason=reason,
        identity=run_id(identity(config), config, data) if recompute else status.get("identity") or "",
        arm=run_id(arm_id(config), config, data) if recompute else status.get("arm") or "",
        config=config,
        choices={group: str(choice) for group, choice in (status.get("choices") or {}).items() if choice is not None},
        overrides=overrides,
        status=status,
        summary=summary,
        data=data,
        data_known="recorded" if data else "unknown",
        code=status.get("own_code"),
    )


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of status.json; empty if there is none or it is damaged."""
    try:
        return read_stored(folder, STATUS_FILE)
    except (OSError, ValueError):
        return {}


def _summary(folder: Path) -> dict[str, Any]:
    """Return the content of summary.json; empty if there is none."""
    try:
        return read_stored(folder, SUMMARY_FILE)
    except FileNotFoundError:
        return {}


def _is_of_older_version(status: Mapping[str, Any]) -> bool:
    """Return whether the stored ids are of an earlier version of the identity, so that they must be recomputed."""
    return bool(status.get("identity")) and status.get("identity_version", 1) != VERSION


def find_runs(
    folders: Iterable[Path], on_error: Callable[[Path, str], None] | None = None, archived: bool = False
) -> Iterator[Path]:
    """Yield every run folder at or below `folders` once, sorted by name within each of them. Links below them are not followed.

    `on_error`: gets each folder that cannot be read, and the reason; None to leave them out. `archived`: also yield what is
    archived; else `on_error` gets it, unless it is itself one of `folders`.
    """
    visited: set[tuple[int, int]] = set()
    pending = [*folders][::-1]
    tops = set(pending)
    while pending:
        folder = pending.pop()
        try:
            found = folder.stat()
            if (found.st_dev, found.st_ino) in visited:
                continue
            visited.add((found.st_dev, found.st_ino))
            if not archived and folder not in tops and is_archived(folder):
                if on_error is not None:
                    on_error(folder, ARCHIVED)
                continue
            is_run = Folder(folder).exists(STATUS_FILE)
            inner = [] if is_run else [folder / name for name in Folder(folder).subfolders() if not _is_left_out(name)]
        except OSError as error:
            if on_error is not None and not (folder in tops and isinstance(error, FileNotFoundError | NotADirectoryError)):
                on_error(folder, f"this folder cannot be read ({error.strerror})")
            continue
        pending += reversed(inner)
        if is_run:
            yield folder


def subfolders(folder: Path) -> list[str]:
    """Return the names of the subfolders that are no links, sorted; empty if the folder cannot be read."""
    try:
        return Folder(folder).subfolders()
    except OSError:
        return []


def _is_left_out(name: str) -> bool:
    return name == PREVIOUS or name.startswith(".")


def _state(status: Mapping[str, Any]) -> tuple[State, str]:
    state = status["status"]
    if state not in get_args(State):
        raise ValueError(f"status.json has the status {state!r}")
    return cast(State, state), (status.get("reason") or "")[:LONGEST_REASON]


def _ended(folder: Path, status: Mapping[str, Any]) -> bool:
    """Return whether the process of a run with the status `running` has ended. On another host only the lock can tell."""
    locked = is_held(folder)
    if locked is not None:
        return not locked
    return not LockHolder(status.get("pid") or 0, status.get("host") or "", since="").may_be_alive()
