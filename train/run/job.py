"""One job as Hydra calls it: trains one run from its configuration, and returns its objective and exit code."""

from __future__ import annotations

import gc
import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.collector import uncollected
from train.command import as_typed, own_parts
from train.config import CheckpointSettings, check, parse
from train.errors import SIGNALLED, CompositionError, Interrupted
from train.run.context import begin_context
from train.run.loading import loading_shown
from train.run.resume import refuse_changes, run_to_resume, user_overrides
from train.run.signals import StopSignal, handle_signals, held_signals
from train.run.trust import set_trusted, trusted_packages
from train.run.typed import refuse_in_job, refuse_in_run, typed_overrides
from train.sinks import figures
from train.sinks.hparams import hparams_row
from train.store.code import code_difference
from train.store.failure import RunRequest, requested_experiment, write_refusal
from train.store.identity import BOOKKEEPING, experiment_of, identity, run_id
from train.store.overrides import drop_groups
from train.store.run import FINISHED, read_run
from train.store.run_folder import RunFolder

if TYPE_CHECKING:
    from train.run.session import Session

COMPARING_SWEEPERS = (
    "hydra_plugins.train.ablation.AblationSweeper",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
)
"""The sweepers that run what they were told. Any other searches: it is told the score of each run."""

SESSION = "train.run.session"
TITLE_GROUPS = ("experiment", "data", "model", "init", "norm", "augment", "regularization", "optimizer", "schedule")


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    `objective`: the accuracy that a sweeper maximises, NaN if there is none; `exit_code`: of the process.
    """

    objective: float
    exit_code: int


@dataclass(frozen=True)
class Job:
    """A run that is ready to train.

    `config`: of the experiment alone; `overrides`: of the run, as typed; `choices`: config group -> chosen option.
    """

    session: Session
    config: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, str]


def run_job(config: DictConfig) -> JobResult:
    """Train one run, or resume the one in its folder.

    UsageError for every mistake that can be detected before training; no files are left behind then.
    """
    hydra = HydraConfig.get()
    choices = chosen_options(hydra.runtime.choices)
    overrides = as_typed(hydra.overrides.task)
    own = own_parts_of_job(hydra, config)
    folder = RunFolder(Path(hydra.runtime.output_dir), own)
    if is_search(hydra) and (known := known_result(folder, config)) is not None:
        return known
    in_sweep = is_of_sweep(hydra)
    with handle_signals() as stop:
        try:
            with stop.raising():
                typed = () if in_sweep else typed_overrides(hydra)
                refuse_in_job(overrides) if in_sweep else refuse_in_run(typed, hydra.run)
                session, content = start_run(config, folder, overrides, choices, typed)
        except BaseException as error:
            folder.release()
            if in_sweep and isinstance(error, Exception):
                request = RunRequest(requested_experiment(config), user_overrides(overrides), choices, own)
                write_refusal(folder.path, request, error)
            remove_if_empty(folder.path)
            raise
        result = train_job(Job(session, content, overrides, choices), stop)
        if result.exit_code > SIGNALLED and in_sweep:
            raise Interrupted(result.exit_code - SIGNALLED)  # the signal was meant for the whole sweep
    return result


def train_job(job: Job, stop: StopSignal) -> JobResult:
    """Train the run of a job to its end, release its folder and return the result."""
    named = drop_groups(job.overrides, BOOKKEEPING)
    row = hparams_row(job.config, job.choices, named)
    wants_figures = job.session.setup.settings.observe.figures
    try:
        with nullcontext() if wants_figures else figures.deferred():  # what is deferred here is never drawn
            summary, exit_code = job.session.run(run_title(job.choices, named), row, stop)
    finally:
        job.session.folder.release()
    return JobResult(objective(summary.status, summary.val_accuracy, summary.test_accuracy), exit_code)


def objective(status: str, val_accuracy: float | None, test_accuracy: float | None) -> float:
    """Return the accuracy that a sweeper maximises."""
    accuracy = val_accuracy if val_accuracy is not None else test_accuracy
    return math.nan if accuracy is None or status != "done" else accuracy


def known_result(folder: RunFolder, config: DictConfig) -> JobResult | None:
    """Return the result of the same run if it has finished in `folder` already: a search may try a value twice."""
    if not folder.has_status:
        return None
    run = read_run(folder.path)
    is_same = run.identity == run_identity(requested_experiment(config), run.data) and not code_difference(run.status)
    if run.state not in FINISHED or not is_same:
        return None
    scores = [run.summary.get(key) for key in ("val_accuracy", "test_accuracy")]
    return JobResult(objective(run.state, *scores), run.status.get("exit_code") or 0)


def run_identity(content: Mapping[str, Any], data: str) -> str:
    """Return the identity of a run of this configuration, on the data with this id."""
    return run_id(identity(content), content, data)


def start_run(
    config: DictConfig, folder: RunFolder, overrides: Sequence[str], choices: Mapping[str, str], typed: Sequence[str] = ()
) -> tuple[Session, dict[str, Any]]:
    """Return a session that is ready to train, whose folder is claimed, and the configuration of the experiment.

    `overrides`: of the job; `typed`: those that stand on the command line of a single run. UsageError for every mistake that can
    be detected before training.
    """
    resolved = resolve_config(config)
    content = experiment_of(resolved)
    set_trusted(trusted_packages(resolved["trust"], overrides))
    return start(content, resolved, folder, overrides, choices, typed), content


def start(
    content: Mapping[str, Any],
    bookkeeping: Mapping[str, Any],
    folder: RunFolder,
    overrides: Sequence[str],
    choices: Mapping[str, str],
    typed: Sequence[str],
) -> Session:
    """Return a session that is ready to train, and whose folder is claimed.

    `content`: the configuration of the experiment, not checked yet; `bookkeeping`: with the keys `checkpoint` and `resume`; the
    others as for `start_run`.
    """
    settings = parse(content)
    checkpoints = check(CheckpointSettings, "checkpoint", bookkeeping["checkpoint"])
    previous = run_to_resume(folder, bookkeeping["resume"])
    if previous is not None:
        refuse_changes(previous, content)
    begin_context(settings.trainer.device, settings.trainer.devices)
    import_session()
    from train.run.session import open_session

    with loading_shown():
        session = open_session(settings, folder, checkpoints, previous, typed)
    session.claim_folder(content, user_overrides(overrides), choices)
    return session


def import_session() -> None:
    """Import what trains a run, torch above all.

    The garbage collector, which would search half a million new objects again and again, is off meanwhile, and leaves them out
    afterwards.
    """
    if SESSION in sys.modules:
        return
    with uncollected():
        with held_signals():
            importlib.import_module(SESSION)
            importlib.import_module("torch._inductor")  # as `torch.use_deterministic_algorithms` does
        gc.freeze()


def resolve_config(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values. CompositionError for an unresolvable interpolation or a value left as `???`."""
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise CompositionError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def is_of_sweep(hydra: Any) -> bool:
    """Return whether a job is one of a sweep. `hydra`: the node of that name."""
    return not OmegaConf.is_missing(hydra.job, "num")  # hydra.mode does not tell: a study sets it for its sweep alone


def is_search(hydra: Any) -> bool:
    """Return whether a sweeper of others asks for the score of each run. `hydra`: the node of that name."""
    return is_of_sweep(hydra) and OmegaConf.select(hydra, "sweeper._target_") not in COMPARING_SWEEPERS


def own_parts_of_job(hydra: Any, config: DictConfig) -> tuple[str, ...]:
    """Return the arguments by which a command finds the user's own parts. `hydra`: the node of that name."""
    folders = [str(source.path) for source in hydra.runtime.config_sources if source.provider == "command-line"]
    trusted = OmegaConf.select(config, "trust")
    names = [trusted] if isinstance(trusted, str) else [str(name) for name in trusted or ()]
    return own_parts(next(iter(folders), None), names, as_typed(hydra.overrides.hydra))


def chosen_options(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Return config group -> chosen option for the groups of the experiment, from Hydra's record of all choices."""
    return {str(group): str(choice) for group, choice in choices.items() if choice and "/" not in str(group)}


def run_title(choices: Mapping[str, str | None], overrides: Sequence[str]) -> str:
    """Return the run's title for displays: its chosen ingredients, then the other values set on the command line."""
    chosen = [f"{group}={choices[group]}" for group in TITLE_GROUPS if choices.get(group)]
    others = [override for override in overrides if override.split("=", 1)[0].lstrip("+~") not in TITLE_GROUPS]
    return " ".join([*chosen, *others])


def remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra created, and its parent, if they are empty, so that a refused command leaves nothing."""
    for path in (folder, folder.parent):
        try:
            if path.samefile(Path.cwd()):
                return
            path.rmdir()
        except OSError:
            return
