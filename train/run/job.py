"""One job as Hydra calls it: configuration in, exit code out, and a run folder that says what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.config import parse
from train.errors import UsageError
from train.ledger.identity import experiment_of
from train.run.folder import RunFolder
from train.sinks.hparams import arm_of

SHOWN = ("experiment", "data", "model", "init", "norm", "augment", "regularization", "optimizer", "schedule")
INTERRUPTED = 128
"""Exit codes above this one are 128 + the number of the signal that ended the run, as shells report it."""


@dataclass(frozen=True)
class JobResult:
    """`objective`: the accuracy that a sweeper maximises, NaN when there is none; `exit_code`: what the process ends with."""

    objective: float
    exit_code: int


def run_job(config: DictConfig) -> JobResult:
    """Train once. UsageError, with nothing left behind, for whatever can be known to be wrong before training."""
    hydra = HydraConfig.get()
    choices = {str(group): str(choice) for group, choice in hydra.runtime.choices.items() if choice and "/" not in str(group)}
    overrides = list(hydra.overrides.task)
    folder = RunFolder(Path(hydra.runtime.output_dir))
    try:
        content = experiment_of(resolve(config))
        settings = parse(content)
        from train.run.session import prepare  # imports torch

        session = prepare(settings, folder)
        folder.claim(content, overrides, choices)
    except BaseException:
        remove_if_empty(folder.path)
        raise
    summary, exit_code = session.run(title(choices, overrides), arm_of(content, choices, overrides))
    if exit_code > INTERRUPTED and hydra.mode == RunMode.MULTIRUN:
        raise KeyboardInterrupt  # the user, or the system, means the whole sweep
    accuracy = summary.val_accuracy if summary.val_accuracy is not None else summary.test_accuracy
    return JobResult(math.nan if accuracy is None or summary.status != "done" else accuracy, exit_code)


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values. UsageError for an interpolation that leads nowhere or a value left as `???`."""
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def title(choices: Mapping[str, str | None], overrides: Sequence[str]) -> str:
    """What the run is called on screen: the chosen ingredients, and which other values the command line changed."""
    chosen = [f"{group}={choices[group]}" for group in SHOWN if choices.get(group)]
    others = [override for override in overrides if override.split("=", 1)[0].lstrip("+~") not in SHOWN]
    return " ".join([*chosen, *others])


def remove_if_empty(folder: Path) -> None:
    """Hydra has made the folder by now; a command that was refused leaves none behind."""
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return
