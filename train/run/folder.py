"""The run folder: claimed by one process, and the only thing later readers need."""

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

_OF_THE_END = frozenset({"status", "reason", "exit_code", "wall_s", "peak_memory_bytes", "diagnosis"})


class RunFolder:
    """Paths and writers of one run. `claim` makes it this process's own, until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status_file = path / "status.json"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.weights_file = path / "weights.pt"
        self.config: dict[str, Any] = {}
        """Of the experiment, once the folder is this process's own."""
        self._status: dict[str, Any] = {}
        self._lock = Lock(path)

    def refuse_if_taken(self) -> None:
        """UsageError when the folder already holds a run; found before anything slow begins."""
        if self.status_file.exists():
            remedy = "Choose another hydra.run.dir, or leave it out for a new folder"
            going_on = f"train resume={shlex.quote(str(self.path))} goes on with a run that has not ended"
            said = f"hydra.run.dir={self.path}: this folder already holds a run{self._whose()}, which is left as it is."
            raise UsageError(f"{said} {remedy}; {going_on}.")

    def lock(self) -> None:
        """From here on no other process works in the folder. UsageError that says which one does."""
        try:
            holder = self._lock.acquire()
        except OSError as error:
            raise UsageError(f"{self.path}: this folder cannot be written ({error.strerror}).") from None
        if holder is not None:
            raise UsageError(f"{self.path}: this folder already holds a run, and {holder}, is at work on it. It is left to that.")

    def release(self) -> None:
        """Others may have the folder."""
        self._lock.release()

    def _whose(self) -> str:
        if is_held(self.path):
            holder = last_holder(self.path)
            return f", going on in {holder}" if holder else ", which is going on"
        return ""

    def claim(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Take the folder and write what is known before training. UsageError when it already holds a run, or cannot be written.

        `config`: resolved, of the experiment alone; `choices`: option group -> chosen option.
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
        self._write_request(config, overrides)
        self._status = {"started": timestamp()} | self._ownership(config, choices)
        temporary = self.path / f".claim.{os.getpid()}.{threading.get_ident()}"
        try:
            write_json(temporary, self._status)
            os.link(temporary, self.status_file)  # where there are no locks: of all who try, one succeeds
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
        """Go on with the run in this folder, which this process holds: `status` is what it last said, `step` where it goes on.

        Whatever it wrote about its end is taken back, and at step 0 whatever it recorded.
        """
        taken_up = {"time": timestamp(), "step": step, "status": status.get("status"), "reason": status.get("reason", "")}
        kept = {key: value for key, value in status.items() if key not in _OF_THE_END}
        resumed = [*status.get("resumed", ()), taken_up]
        self._status = kept | self._ownership(config, choices) | {"resumed": resumed}
        write_json(self.status_file, self._status)
        self._write_request(config, overrides)
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

    def _write_request(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """What was asked for. Before status.json, so that whatever says that it is a run can be gone on with."""
        self.config = dict(config)
        for name, content in (("config.yaml", dict(config)), ("overrides.yaml", list(overrides))):
            write_atomic(self.path / name, OmegaConf.to_yaml(OmegaConf.create(content)).encode())

    def update(self, **fields: Any) -> None:
        """Merge `fields` into status.json, which is whole at every moment."""
        self._status |= fields
        write_json(self.status_file, self._status)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file in one step."""
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False, default=str) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` durably: a reader sees the old content or the new, also after a crash."""
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
    """Of this program, Python and the packages a result may depend on."""
    from train import __version__

    return {"train": __version__, "python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of the checkout the program runs from and whether it was changed since; None outside a checkout."""
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
