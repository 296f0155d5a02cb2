"""The run folder: owned by one process while it runs, and self-contained for every later reader."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from train.command import resume_command
from train.errors import UsageError
from train.store.code import code_id, git_state, versions
from train.store.files import (
    CONFIG_FILE,
    EVENT_FILES,
    LOCK_FILE,
    METRICS_FILE,
    OVERRIDES_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
    WEIGHTS_FILE,
    encode_json,
    write_json,
)
from train.store.identity import VERSION, arm_id, identity, run_id
from train.store.inputs import Inputs, write_data
from train.store.inside import Folder
from train.store.lock import Lock, is_held, last_holder

_ENDING_FIELDS = frozenset({"status", "reason", "exit_code", "wall_s", "peak_memory_bytes", "diagnosis"})
"""Keys of status.json that describe how the run ended. Resuming drops them."""


class RunFolder:
    """The paths and writers of one run. `claim` reserves the folder for this process until `release` or the process exits.

    `own_parts`: the arguments by which a command finds the user's own parts.
    """

    def __init__(self, path: Path, own_parts: Sequence[str] = ()) -> None:
        self.path = path
        self.own_parts = list(own_parts)
        self.status_file = path / STATUS_FILE
        self.metrics_file = path / METRICS_FILE
        self.summary_file = path / SUMMARY_FILE
        self.weights_file = path / WEIGHTS_FILE
        self.config: dict[str, Any] = {}
        """The configuration of the experiment. Empty until this process has claimed the folder."""
        self._status: dict[str, Any] = {}
        self._lock = Lock(path)
        self._files = Folder(path)

    def refuse_if_taken(self) -> None:
        """Raise UsageError when the folder already holds a run. Called before anything slow starts."""
        if self.has_status:
            remedy = "Choose another hydra.run.dir, or omit it for a new folder"
            message = f"hydra.run.dir={self.path}: this folder already holds a run{self._user()}. {remedy}."
            raise UsageError(f"{message} To resume an incomplete run: {self.resume_command}")

    @property
    def has_status(self) -> bool:
        """Whether the folder holds a run: there is an entry status.json."""
        return self._files.exists(STATUS_FILE)

    @property
    def resume_command(self) -> str:
        """The command that resumes the run in this folder."""
        return resume_command(self.path, self.own_parts)

    def lock(self) -> None:
        """Lock the folder for this process. UsageError names the process that already holds the lock."""
        try:
            holder = self._lock.acquire()
        except OSError as error:
            raise UsageError(f"{self.path}: this folder cannot be written ({error.strerror}).") from None
        if holder is not None:
            raise UsageError(f"{self.path}: another process ({holder}) is using this run folder.")

    def release(self) -> None:
        """Release the lock, so that other processes can use the folder."""
        self._lock.release()

    def _user(self) -> str:
        if is_held(self.path):
            holder = last_holder(self.path)
            return f", which another process ({holder}) is using" if holder else ", which another process is using"
        return ""

    def claim(
        self,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        choices: Mapping[str, str] | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        """Reserve the folder and write what is known before training.

        `config`: the resolved configuration, of the experiment alone; `choices`: config group -> chosen option; `inputs`: None if
        the run failed before they were known. UsageError when the folder already holds a run or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            self._begin(config, overrides, choices, inputs)
        except OSError as error:
            self.release()
            with suppress(OSError):
                if not self.has_status:
                    self._files.remove(LOCK_FILE)
            raise UsageError(f"hydra.run.dir={self.path}: this folder cannot be written ({error.strerror}).") from None
        except BaseException:
            self.release()
            raise

    def _begin(
        self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None, inputs: Inputs | None
    ) -> None:
        self.refuse_if_taken()
        self.config = dict(config)
        write_config(self.path, config, overrides)
        self._status = {"started": timestamp()} | self._ownership(config, choices, inputs)
        try:  # on file systems without locks: exactly one of several claims succeeds
            self._files.write_new(STATUS_FILE, encode_json(self._status))
        except FileExistsError:
            self.refuse_if_taken()

    def resume(
        self,
        status: Mapping[str, Any],
        step: int,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        choices: Mapping[str, str] | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        """Resume the run in this folder, whose lock this process holds.

        `status`: its last status.json; `step`: the step to resume from. Everything that the run wrote about its end is removed;
        at step 0 its records are removed too.
        """
        before = {"status": status.get("status"), "reason": status.get("reason", ""), "host": status.get("host", "")}
        resumption = {"time": timestamp(), "step": step, **before}
        kept = {key: value for key, value in status.items() if key not in _ENDING_FIELDS}
        resumed = [*(status.get("resumed") or ()), resumption]
        self._status = kept | self._ownership(config, choices, inputs) | {"resumed": resumed}
        write_json(self.status_file, self._status)
        self.config = dict(config)
        write_config(self.path, config, overrides)
        outdated = [] if step else [METRICS_FILE, *(name for name in self._files.names() if fnmatchcase(name, EVENT_FILES))]
        for name in (SUMMARY_FILE, *outdated):
            self._files.remove(name)

    def _ownership(self, config: Mapping[str, Any], choices: Mapping[str, str] | None, inputs: Inputs | None) -> dict[str, Any]:
        data = inputs.data_id if inputs else ""
        if inputs is not None:
            write_data(self.path, inputs)
        return {
            "status": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "identity": run_id(identity(config), config, data),
            "arm": run_id(arm_id(config), config, data),
            "identity_version": VERSION,
            **({"data": data, "own_code": dict(inputs.code)} if inputs else {}),
            "choices": dict(choices or {}),
            "own_parts": self.own_parts,
            "versions": versions(),
            "code": code_id(),
            "git": git_state(Path(__file__).resolve().parents[2]),
        }

    def update(self, **fields: Any) -> None:
        """Merge `fields` into status.json. The file is complete at every moment."""
        self._status |= fields
        write_json(self.status_file, self._status)

    def write_summary(self, content: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.summary_file, content)

    def write_weights(self, content: bytes) -> None:
        """Write weights.pt. `content`: the model's state dict as `torch.save` writes it."""
        self._files.write(WEIGHTS_FILE, content)


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_config(folder: Path, config: Mapping[str, Any], overrides: Sequence[str], keep: bool = False) -> None:
    """Write config.yaml and overrides.yaml. They precede status.json, so that every folder with a status can be resumed.

    `keep`: write only those that are missing.
    """
    files = Folder(folder)
    for name, content in ((CONFIG_FILE, dict(config)), (OVERRIDES_FILE, list(overrides))):
        if not (keep and files.exists(name)):
            files.write(name, _yaml(content).encode())


def _yaml(content: Any) -> str:
    from omegaconf import OmegaConf  # here, as only those who train need it
    from omegaconf.errors import GrammarParseError

    try:
        return OmegaConf.to_yaml(OmegaConf.create(content))
    except GrammarParseError:  # text that is no interpolation but looks like the beginning of one, as in a file's name
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
