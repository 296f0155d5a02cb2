"""The run folder: claimed by one process, and the only thing later readers need."""

from __future__ import annotations

import json
import os
import platform
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
from train.ledger.identity import arm_id, identity

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "tensorboard", "numpy", "pillow")


class RunFolder:
    """Paths and writers of one run. `claim` makes it this process's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status_file = path / "status.json"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.weights_file = path / "weights.pt"
        self._status: dict[str, Any] = {}

    def refuse_if_taken(self) -> None:
        """UsageError when the folder already holds a run; found before anything slow begins."""
        if self.status_file.exists():
            remedy = "Choose another hydra.run.dir, or leave it out for a new folder."
            raise UsageError(f"hydra.run.dir={self.path}: this folder already holds a run, which is left as it is. {remedy}")

    def claim(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Take the folder and write what is known before training. UsageError when it already holds a run.

        `config`: resolved, of the experiment alone; `choices`: option group -> chosen option.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._status = {
            "status": "running",
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "identity": identity(config),
            "arm": arm_id(config),
            "choices": dict(choices or {}),
            "versions": versions(),
            "git": git_state(Path(__file__).resolve().parents[2]),
        }
        temporary = self.path / f".claim.{os.getpid()}.{threading.get_ident()}"
        write_json(temporary, self._status)
        try:
            os.link(temporary, self.status_file)  # of all who try, one succeeds, and nobody sees half a file
        except FileExistsError:
            self.refuse_if_taken()
        finally:
            temporary.unlink()
        OmegaConf.save(OmegaConf.create(dict(config)), self.path / "config.yaml")
        OmegaConf.save(OmegaConf.create(list(overrides)), self.path / "overrides.yaml")

    def update(self, **fields: Any) -> None:
        """Merge `fields` into status.json, which is whole at every moment."""
        self._status |= fields
        write_json(self.status_file, self._status)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file in one step."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False, default=str) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` durably: a reader sees the old content or the new, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
