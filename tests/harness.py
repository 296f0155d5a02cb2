"""Helpers for tests that run the program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scripts import catalogue
from train import cli
from train.config import Settings, ThresholdSettings, parse
from train.errors import Interrupted
from train.run.resumed_job import open_job, read_resumption
from train.run.trust import set_trusted
from train.sinks.contracts import Status
from train.sinks.figures import deferred
from train.store.identity import experiment_of
from train.store.metrics import read_records
from train.store.run_folder import RunFolder

SMALL = [*catalogue.SMALL, "observe=off"]
"""A run of a second. Tests of what is observed add `observe=basic`."""

TRUST = ("tests",)
"""Packages that runs in the test process may call."""

COMMAND = Path(sys.executable).with_name("train")


def run_command_in_worker(order: tuple[Any, ...]) -> None:
    """Run the command `train` in a worker of the fork server.

    `order`: arguments, folder, the files of stdout and stderr, and perhaps the address of the server, which then starts the jobs
    of a sweep, too: to import torch for a server of its own takes a sweep five seconds.
    """
    arguments, folder, stdout, stderr, *address = order
    if address:
        server: Any = forkserver
        (server._forkserver._forkserver_address,) = address
        server._forkserver.ensure_running = server.ensure_running = lambda: None
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [str(COMMAND), *arguments]
    cli.main()


@contextmanager
def hidden_gpus() -> Iterator[None]:
    """Hide all GPUs from this process and from those that it starts, inside the context.

    CUDA reads the variable once in a process, which a test marked `cuda` may have made it do. So torch is told, too.
    """
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        # Once CUDA is in use, torch keeps the count of a call inside for all others.
        patch.setattr(torch.cuda, "_cached_device_count", 0)
        yield


def compose_config(overrides: Sequence[str]) -> dict[str, object]:
    """Return the resolved configuration that the command would run."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        content = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(content, dict)
    return experiment_of({str(key): value for key, value in content.items()})


def thresholds_for(**changes: float) -> ThresholdSettings:
    """Return the thresholds of `conf/config.yaml` with these changes."""
    content = yaml.safe_load((cli.config_dir() / "config.yaml").read_text(encoding="utf-8"))
    return ThresholdSettings(**content["observe"]["thresholds"] | changes)


def settings_for(overrides: Sequence[str]) -> Settings:
    set_trusted(TRUST)
    return parse(compose_config(overrides))


def train_in_process(folder: Path, overrides: Sequence[str], figures: bool = False) -> RunFolder:
    """Train in this process and return the run folder. figures: draw them, which takes longer than a tiny run."""
    with nullcontext() if figures else deferred():
        return _here(folder, overrides)[0]


def resume_in_process(folder: Path, overrides: Sequence[str] = ()) -> tuple[RunFolder, Status]:
    """Run `train resume=FOLDER` with these overrides in this process; return the run folder and the status."""
    run_folder = RunFolder(folder)
    try:
        resumption = read_resumption(str(folder), [*overrides, f"trust={TRUST[0]}", f"resume={folder}"])
        return run_folder, open_job(resumption, run_folder, cli.config_dir()).session.run("test")[0].status
    except Interrupted:
        return run_folder, "interrupted"
    finally:
        run_folder.release()


def _here(folder: Path, overrides: Sequence[str]) -> tuple[RunFolder, Status]:
    from train.run.job import start_run

    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        config = compose("config", overrides=[*overrides, f"trust={TRUST[0]}"])
    run_folder = RunFolder(folder)
    try:
        session, _ = start_run(config, run_folder, [*overrides, "trust=tests"], {})
        return run_folder, session.run("test")[0].status
    except Interrupted:
        return run_folder, "interrupted"
    finally:
        run_folder.release()


def only_run(parent: Path) -> Path:
    """Return the only run folder under `parent`/outputs."""
    (folder,) = (parent / "outputs").iterdir()
    return folder


def run_content(folder: Path) -> tuple[bytes, list[tuple[int, dict[str, float]]]]:
    """Return everything of a run but times: the bytes of its weights, and its records."""
    return (folder / "weights.pt").read_bytes(), [(r.step, dict(r.values)) for r in read_records(folder / "metrics.jsonl")]
