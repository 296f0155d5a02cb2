"""One job as Hydra calls it: configuration in, exit code out, and a run folder that says what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.config import CheckpointSettings, check, parse
from train.errors import SIGNALLED, Interrupted, UsageError
from train.run.failure import RunRequest, requested_experiment, write_refusal
from train.run.folder import RunFolder
from train.run.resume import refuse_changes, run_to_resume, trusted_packages, user_overrides
from train.run.signals import handle_signals
from train.sinks.hparams import hparams_row
from train.store.identity import BOOKKEEPING, experiment_of
from train.store.overrides import drop_groups

if TYPE_CHECKING:
    from train.run.session import Session

SHOWN = ("experiment", "data", "model", "init", "norm", "augment", "regularization", "optimizer", "schedule")


@dataclass(frozen=True)
class JobResult:
    """`objective`: the accuracy that a sweeper maximises, NaN when there is none; `exit_code`: what the process ends with."""

    objective: float
    exit_code: int


def run_job(config: DictConfig) -> JobResult:
    """Train once, or go on with the run that `resume` names. UsageError, with nothing left behind, for whatever can be known to
    be wrong before training."""
    hydra = HydraConfig.get()
    choices = chosen_options(hydra.runtime.choices)
    overrides = list(hydra.overrides.task)
    folder = RunFolder(Path(hydra.runtime.output_dir))
    with handle_signals() as stop:
        try:
            with stop.raising():
                session, content = start_run(config, folder, overrides, choices)
        except BaseException as error:
            folder.release()
            if hydra.mode == RunMode.MULTIRUN and isinstance(error, Exception):
                write_refusal(folder.path, RunRequest(requested_experiment(config), user_overrides(overrides), choices), error)
            remove_if_empty(folder.path)
            raise
        try:
            said = drop_groups(overrides, BOOKKEEPING)
            summary, exit_code = session.run(run_title(choices, said), hparams_row(content, choices, said), stop)
        finally:
            folder.release()
        if exit_code > SIGNALLED and hydra.mode == RunMode.MULTIRUN:
            raise Interrupted(exit_code - SIGNALLED)  # the user, or the system, means the whole sweep
    accuracy = summary.val_accuracy if summary.val_accuracy is not None else summary.test_accuracy
    return JobResult(math.nan if accuracy is None or summary.status != "done" else accuracy, exit_code)


def start_run(
    config: DictConfig, folder: RunFolder, overrides: Sequence[str], choices: Mapping[str, str]
) -> tuple[Session, dict[str, Any]]:
    """A run that is ready, in a folder that is its own; and the configuration of the experiment. `overrides`: as typed."""
    whole = resolve(config)
    content = experiment_of(whole)
    settings = parse(content, trusted_packages(whole["trust"], overrides))
    checkpoints = check(CheckpointSettings, "checkpoint", whole["checkpoint"])
    before = run_to_resume(folder, whole["resume"])
    if before is not None:
        refuse_changes(before, content)
    from train.run.session import prepare  # imports torch

    session = prepare(settings, folder, checkpoints, before)
    session.claim_folder(content, user_overrides(overrides), choices)
    return session, content


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values. UsageError for an interpolation that leads nowhere or a value left as `???`."""
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def chosen_options(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Of Hydra's record of choices those that concern the experiment: option group -> chosen option."""
    return {str(group): str(choice) for group, choice in choices.items() if choice and "/" not in str(group)}


def run_title(choices: Mapping[str, str | None], overrides: Sequence[str]) -> str:
    """What the run is called on screen: the chosen ingredients, and which other values the command line changed."""
    chosen = [f"{group}={choices[group]}" for group in SHOWN if choices.get(group)]
    others = [override for override in overrides if override.split("=", 1)[0].lstrip("+~") not in SHOWN]
    return " ".join([*chosen, *others])


def remove_if_empty(folder: Path) -> None:
    """Hydra has made the folder by now; a command that was refused leaves none behind."""
    for path in (folder, folder.parent):
        try:
            if path.samefile(Path.cwd()):
                return
            path.rmdir()
        except OSError:
            return
