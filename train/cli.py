"""The command `train`. It imports no torch itself, so that help, `--cfg` and completion answer at once."""

from __future__ import annotations

import math
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from train.command import arranged, as_typed, config_dir, config_folders
from train.errors import Interrupted, RunError, UsageError
from train.run.signals import stop_signals
from train.run.torchrun import is_other_rank, started_by_torchrun
from train.streams import protect_output, say, say_error

if TYPE_CHECKING:
    from omegaconf import DictConfig, ListConfig

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment variables that must be set when the process starts. The first two keep glibc from returning every step's buffers to
the system and requesting them again; other allocators ignore them. The third makes threads sleep while they wait for each other:
by default they spin, and another program on one of the cores then slows training by up to an order of magnitude."""

HELP = {"--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"}
QUIET = {*HELP, "--cfg", "-c", "--info", "-i"}
"""Flags that start no run, so that restarting the interpreter would be wasted time."""


def prepare_process() -> None:
    """Restart this process with `ENVIRONMENT`, which libraries read only as they load. The user's own settings win."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    flags = {argument.split("=", 1)[0] for argument in sys.argv[1:]}
    if not missing or not sys.platform.startswith("linux") or flags & QUIET:
        return
    os.environ.update(missing)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def raise_interrupted(number: int, _: object) -> None:
    """Handle a signal to stop. Before a run has installed its own handlers there is no state to save."""
    raise Interrupted(number)


def resume_folder(folder: str) -> int:
    """Resume the run in a folder, and return the exit code. Hydra has no part in it."""
    from train.run.resumed_job import read_resumption, resume_job

    register_resolvers()
    return resume_job(read_resumption(folder, sys.argv[1:]), config_dir()).exit_code


def register_resolvers() -> None:
    from omegaconf import OmegaConf

    from train import naming

    def run_name(overrides: ListConfig) -> str:
        return naming.run_name(as_typed(overrides))  # a value may be an interpolation that leads nowhere

    def job_name(overrides: ListConfig) -> str:
        return naming.job_name(as_typed(overrides))

    def random_name() -> str:
        return secrets.token_hex(4)

    for name, function, cached in (
        ("run_name", run_name, True),
        ("sweep_name", naming.sweep_name, True),
        ("job_name", job_name, False),
        ("random_name", random_name, True),
    ):
        OmegaConf.register_new_resolver(name, function, use_cache=cached, replace=True)


wants_traceback = os.environ.get("TRAIN_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"
"""Whether the user requested tracebacks. `main` overwrites Hydra's variable and passes the user's choice to the processes of a
sweep in the other one."""

DIVERGED = 3
"""The exit code of a run that has diverged, which is a result."""

exit_codes: list[int] = []
"""The exit codes of the jobs that ran in this process. Hydra does not pass on the return value of a job."""


def task(config: DictConfig) -> float:
    """Run one job and return the value that a sweeper maximises. Hydra calls it once per job, with every launcher.

    RunError when there is no value and the sweeper searches: every search knows what to do with a job that failed.
    """
    from hydra.core.hydra_config import HydraConfig

    from train.run.job import is_search, run_job

    register_resolvers()
    try:
        result = run_job(config)
    except Exception as error:
        if wants_traceback:
            raise
        exit_codes.append(report_error(error))  # printed here, because Hydra shows only the first failure of a multirun
        objective = math.nan
    else:
        exit_codes.append(result.exit_code)
        objective = result.objective
    if math.isnan(objective) and is_search(HydraConfig.get()):
        raise RunError("This run has no score.")
    return objective


def main() -> None:
    """Run the console command."""
    prepare_process()
    protect_output()
    for number in stop_signals() - {signal.SIGINT}:
        signal.signal(number, raise_interrupted)
    os.environ["TRAIN_FULL_ERROR"] = str(int(wants_traceback))
    try:
        code = run_as_rank() if started_by_torchrun() else run_command()
    except Exception as error:
        if wants_traceback:
            raise
        sys.exit(report_error(explain_folder_error(error) or explain_plugin_error(error) or error))
    except KeyboardInterrupt as error:
        say_error("train", "interrupted")
        sys.exit(error.exit_code if isinstance(error, Interrupted) else 130)
    sys.exit(code)


def answered() -> bool:
    """Print the versions or the help that the arguments ask for; return whether they do."""
    from train.help.pages import help_page, topics_of
    from train.help.parser import version

    topics = topics_of(sys.argv[1:])
    if "--version" in sys.argv[1:]:
        say(version("train"))
    elif topics is not None:
        say(help_page([config_dir(), *config_folders(sys.argv[1:])], topics))
    return "--version" in sys.argv[1:] or topics is not None


def run_as_rank() -> int:
    """Run what the arguments ask for as one of the processes that torchrun started; the first has the settings."""
    from train.run.ranks import dismiss_torchrun, follow_torchrun

    if is_other_rank():
        return follow_torchrun()
    try:
        return run_command()
    finally:
        dismiss_torchrun()


def run_command() -> int:
    """Run what the arguments ask for, and return the exit code."""
    if answered():
        return 0
    if any("resume=" in argument for argument in sys.argv[1:]) and not {*sys.argv[1:]} & HELP:
        from train.run.resumed_job import folder_to_resume

        if (folder := folder_to_resume(sys.argv[1:])) is not None:
            return resume_folder(folder)
    import hydra

    from train.slips import check_arguments

    sys.argv[1:] = arranged(sys.argv[1:])
    check_arguments(sys.argv[1:], config_dir())
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(task)()
    return exit_code()


def exit_code() -> int:
    """Return the exit code of a command whose jobs have run."""
    from train.sweep import conclude

    if conclude.exit_codes:  # of a sweep, from its run folders, as its jobs may have run in other processes
        return max(conclude.exit_codes)
    return exit_codes[0] if len(exit_codes) == 1 else int(not {*exit_codes} <= {0, DIVERGED})


def explain_folder_error(error: Exception) -> UsageError | None:
    """Return a UsageError if Hydra could not create or write the folder of a run; None for other errors."""
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{os.fsdecode(error.filename)}: this folder cannot be created or written ({error.strerror}).")
    return None


def explain_plugin_error(error: Exception) -> RunError | None:
    """Return a RunError if a plugin of others ended with an exception of its own; None for other errors."""
    from traceback import walk_tb

    modules = [str(frame.f_globals.get("__name__")).split(".") for frame, _ in walk_tb(error.__traceback__)]
    plugin = next((name[1] for name in modules if name[0] == "hydra_plugins" and name[1:2] != ["train"]), None)
    if plugin is None or isinstance(error, UsageError | RunError):
        return None
    return RunError(f"The plugin {plugin} ended with {type(error).__name__}: {error} The runs so far are in their folders.")


def report_error(error: Exception) -> int:
    """Print the error as one message, with a traceback only if it is unexpected; return the exit code."""
    if not isinstance(error, UsageError | RunError):
        from train.config_errors import explain, is_composition_error

        error = UsageError(explain(error, config_dir(), sys.argv[1:])) if is_composition_error(error) else error
    if isinstance(error, UsageError | RunError):
        say_error("train", error)
        return error.exit_code
    import traceback

    say("".join(traceback.format_exception(error)).rstrip("\n"), error=True)
    return 1


if __name__ == "__main__":
    main()
