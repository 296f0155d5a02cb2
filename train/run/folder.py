"""The run folder: owned by one process while it runs, and self-contained for every later reader."""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from train.errors import UsageError
from train.store.code import code_id
from train.store.identity import VERSION, arm_id, identity
from train.store.lock import Lock, is_held, last_holder

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "tensorboard", "numpy", "pillow")

_ENDING_FIELDS = frozenset({"status", "reason", "exit_code", "wall_s", "peak_memory_bytes", "diagnosis"})
"""Keys of status.json that describe how the run ended. Resuming drops them."""


class RunFolder:
    """The paths and writers of one run. `claim` reserves the folder for this process until `release` or the process exits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status_file = path / "status.json"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.weights_file = path / "weights.pt"
        self.config: dict[str, Any] = {}
        """The configuration of the experiment. Empty until this process has claimed the folder."""
        self._status: dict[str, Any] = {}
        self._lock = Lock(path)

    def refuse_if_taken(self) -> None:
        """Raise UsageError when the folder already holds a run. Called before anything slow starts."""
        if self.status_file.exists():
            remedy = "Choose another hydra.run.dir, or omit it for a new folder"
            resume = f"train resume={shlex.quote(str(self.path))} resumes an incomplete run"
            message = f"hydra.run.dir={self.path}: this folder already holds a run{self._user()}."
            raise UsageError(f"{message} {remedy}; {resume}.")

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

    def claim(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Reserve the folder and write what is known before training.

        `config`: the resolved configuration, of the experiment alone; `choices`: config group -> chosen option. UsageError when
        the folder already holds a run or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            self._begin(config, overrides, choices)
        except OSError as error:
            self.release()
            if not self.status_file.exists():
                self._lock.path.unlink(missing_ok=True)
            raise UsageError(f"hydra.run.dir={self.path}: this folder cannot be written ({error.strerror}).") from None
        except BaseException:
            self.release()
            raise

    def _begin(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None) -> None:
        self.refuse_if_taken()
        self._write_config(config, overrides)
        self._status = {"started": timestamp()} | self._ownership(config, choices)
        temporary = self.path / f".claim.{os.getpid()}.{threading.get_ident()}"
        try:
            write_json(temporary, self._status)
            os.link(temporary, self.status_file)  # on file systems without locks: exactly one of several claims succeeds
        except FileExistsError:
            self.refuse_if_taken()
        finally:
            temporary.unlink(missing_ok=True)

    def resume(
        self,
        status: Mapping[str, Any],
        step: int,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        choices: Mapping[str, str] | None = None,
    ) -> None:
        """Resume the run in this folder, whose lock this process holds.

        `status`: its last status.json; `step`: the step to resume from. Everything that the run wrote about its end is removed;
        at step 0 its records are removed too.
        """
        resumption = {"time": timestamp(), "step": step, "status": status.get("status"), "reason": status.get("reason", "")}
        kept = {key: value for key, value in status.items() if key not in _ENDING_FIELDS}
        resumed = [*status.get("resumed", ()), resumption]
        self._status = kept | self._ownership(config, choices) | {"resumed": resumed}
        write_json(self.status_file, self._status)
        self._write_config(config, overrides)
        self.summary_file.unlink(missing_ok=True)
        if not step:
            self.metrics_file.unlink(missing_ok=True)
            for path in self.path.glob("events.out.tfevents.*"):
                path.unlink(missing_ok=True)

    def _ownership(self, config: Mapping[str, Any], choices: Mapping[str, str] | None) -> dict[str, Any]:
        return {
            "status": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "identity": identity(config),
            "arm": arm_id(config),
            "identity_version": VERSION,
            "choices": dict(choices or {}),
            "versions": versions(),
            "code": code_id(),
            "git": git_state(Path(__file__).resolve().parents[2]),
        }

    def _write_config(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Write config.yaml and overrides.yaml. They precede status.json, so that every folder with a status can be resumed."""
        self.config = dict(config)
        for name, content in (("config.yaml", dict(config)), ("overrides.yaml", list(overrides))):
            write_atomic(self.path / name, OmegaConf.to_yaml(OmegaConf.create(content)).encode())

    def update(self, **fields: Any) -> None:
        """Merge `fields` into status.json. The file is complete at every moment."""
        self._status |= fields
        write_json(self.status_file, self._status)


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


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the packages that results may depend on."""
    from train import __version__

    return {"train": __version__, "python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether tracked files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        commit = run_git(checkout, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(run_git(checkout, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def run_git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
