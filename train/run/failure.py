"""A run of a sweep that never began, or could not say how it ended: its folder tells it, so that it is a row like any other."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from train.errors import RunError, UsageError
from train.run.folder import RunFolder, write_json
from train.sinks.log import log_file
from train.store.identity import experiment_of


@dataclass(frozen=True)
class RunRequest:
    """What a run was to be. `config`: of the experiment alone, resolved as far as it can be; `choices`: group -> option."""

    config: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, str]


def requested_experiment(config: DictConfig) -> dict[str, Any]:
    """As the run would have kept it; with its interpolations where these lead nowhere."""
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except Exception:  # resolvers may raise whatever they like
        content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    return experiment_of({str(key): value for key, value in content.items()})


def write_failure(path: Path, asked: RunRequest, status: Literal["failed", "interrupted"], reason: str, **fields: Any) -> None:
    """Make `path` a run folder whose run ended in this way; what is there already stays, but for status.json's account of it.

    UsageError or OSError when it cannot be written.
    """
    folder = RunFolder(path)
    try:
        folder.claim(asked.config, asked.overrides, asked.choices)
    except UsageError:
        if not folder.status_file.exists():
            raise
        _complete(path, asked)  # it had begun
        known = json.loads(folder.status_file.read_text(encoding="utf-8"))
        write_json(folder.status_file, known | {"status": status, "reason": reason} | fields)
        return
    try:
        folder.update(status=status, reason=reason, **fields)
    finally:
        folder.release()


def write_refusal(path: Path, asked: RunRequest, error: Exception) -> None:
    """The run could not begin: `error` says why, its traceback goes to train.log. A folder that holds a run stays as it is."""
    if RunFolder(path).status_file.exists():
        return
    ours = isinstance(error, UsageError | RunError)
    write_failure(
        path,
        asked,
        "failed",
        str(error) if ours else f"{type(error).__name__}: {error}",
        exit_code=error.exit_code if isinstance(error, UsageError | RunError) else 1,
    )
    handler = log_file(path)
    record = logging.LogRecord("train", logging.ERROR, __file__, 0, "the run could not begin", None, None)
    record.exc_info = (type(error), error, error.__traceback__)
    handler.emit(record)
    handler.close()


def _complete(path: Path, asked: RunRequest) -> None:
    """A process killed just after it had taken the folder may have left one of these out."""
    for name, content in (("config.yaml", dict(asked.config)), ("overrides.yaml", list(asked.overrides))):
        if not (path / name).exists():
            OmegaConf.save(OmegaConf.create(content), path / name)
