"""Run folders for jobs that failed before they could write one, so that reports count them like any other run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from train.errors import RunError, UsageError
from train.store.files import STATUS_FILE, write_json
from train.store.identity import experiment_of
from train.store.log import log_file
from train.store.run import FINISHED
from train.store.run_folder import RunFolder, write_config
from train.store.stored import read_stored

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class RunRequest:
    """The run that a job was to make.

    `config`: of the experiment alone, resolved as far as possible; `choices`: config group -> chosen option; `own_parts`: the
    arguments by which a command finds the user's own parts.
    """

    config: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, str]
    own_parts: Sequence[str] = ()


def requested_experiment(config: DictConfig) -> dict[str, Any]:
    """Return the configuration that the run would have stored, unresolved if its interpolations cannot be resolved."""
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(config, resolve=True)
    except Exception:  # resolvers may raise anything
        content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    return experiment_of({str(key): value for key, value in content.items()})


def write_failure(path: Path, request: RunRequest, status: Literal["failed", "interrupted"], reason: str, **fields: Any) -> bool:
    """Write into `path` that the run ended with `status`. Files that exist there stay, except that status.json is updated.

    Return whether it did: not over the result of a run that another process has finished there meanwhile. UsageError or OSError
    when the folder cannot be written, or another process is using it.
    """
    folder = RunFolder(path, request.own_parts)
    try:
        folder.claim(request.config, request.overrides, request.choices)
    except UsageError:
        if not folder.has_status:
            raise
        return _end_stored(folder, request, {"status": status, "reason": reason, **fields})
    try:
        folder.update(status=status, reason=reason, **fields)
    finally:
        folder.release()
    return True


def _end_stored(folder: RunFolder, request: RunRequest, ending: Mapping[str, Any]) -> bool:
    """Write the ending of a run that is in `folder` already, as `write_failure` does."""
    folder.lock()
    try:
        previous = read_stored(folder.path, STATUS_FILE)
        if previous.get("status") in FINISHED:
            return False
        # The process of the run was perhaps killed just after it had claimed the folder.
        write_config(folder.path, request.config, request.overrides, keep=True)
        write_json(folder.status_file, {**previous, **ending})
    finally:
        folder.release()
    return True


def write_refusal(path: Path, request: RunRequest, error: Exception) -> None:
    """Write a failed run into `path` because `error` kept it from starting; the traceback goes to train.log.

    A folder that already holds a run is not changed.
    """
    if RunFolder(path).has_status:
        return
    is_explained = isinstance(error, UsageError | RunError)
    write_failure(
        path,
        request,
        "failed",
        str(error) if is_explained else f"{type(error).__name__}: {error}",
        exit_code=error.exit_code if isinstance(error, UsageError | RunError) else 1,
    )
    handler = log_file(path)
    record = logging.LogRecord("train", logging.ERROR, __file__, 0, "the run could not start", None, None)
    record.exc_info = (type(error), error, error.__traceback__)
    handler.emit(record)
    handler.close()
