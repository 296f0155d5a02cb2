"""The command `train`. Nothing here imports torch: help, `--cfg` and completion answer at once."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import Interrupted, RunError, UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What a process must find when it starts. The first two keep glibc from returning every step's buffers to the system and asking
for them again (other allocators ignore them). The third lets threads that wait for each other sleep: by default they spin, and
another program on one of the cores then slows the training by up to an order of magnitude."""

QUIET = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
"""Flags under which no run starts, so that a second start of the interpreter would be wasted."""


def config_dir() -> Path:
    """`conf/`: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def prepare_process() -> None:
    """Start this process again with `ENVIRONMENT`, which libraries read only as they load. A setting of the user's own wins."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    flags = {argument.split("=", 1)[0] for argument in sys.argv[1:]}
    if not missing or not sys.platform.startswith("linux") or flags & QUIET:
        return
    os.environ.update(missing)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def raise_interrupted(number: int, _: object) -> None:
    """Until a run listens to signals, there is nothing to lose."""
    raise Interrupted(number)


def expand_resume() -> None:
    """`resume=FOLDER` stands for the command that began the run there. UsageError for what Hydra must not see."""
    if any(argument.lstrip("+").startswith("resume=") for argument in sys.argv[1:]):
        from train.run.resume import command_line

        sys.argv[1:] = command_line(sys.argv[1:])
    if any(argument.startswith(("-c", "--config", "hydra.searchpath")) for argument in sys.argv[1:]):
        from train.run.trust import refuse_hydra_calls

        refuse_hydra_calls(sys.argv[1:])


def register_resolvers() -> None:
    from omegaconf import OmegaConf

    from train import naming

    for name, function, cached in (
        ("run_name", naming.run_name, True),
        ("sweep_name", naming.sweep_name, True),
        ("job_name", naming.job_name, False),
    ):
        OmegaConf.register_new_resolver(name, function, use_cache=cached, replace=True)


wants_traceback = os.environ.get("TRAIN_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"
"""Whether the user asked for tracebacks. `main` sets Hydra's variable for purposes of its own, and keeps the user's wish for the
processes of a sweep in the other."""

exit_codes: list[int] = []
"""Of the jobs that ran in this process; Hydra keeps a job's return value to itself."""


def task(config: DictConfig) -> float:
    """What Hydra calls once per job, in whatever process and by whichever launcher. Returns what a sweeper maximises."""
    from train.run.job import run_job

    register_resolvers()
    try:
        result = run_job(config)
    except Exception as error:
        if wants_traceback:
            raise
        exit_codes.append(report_error(error))  # said here, since Hydra shows only the first failure of a multirun
        return math.nan
    exit_codes.append(result.exit_code)
    return result.objective


def main() -> None:
    """Entry point of the console command."""
    prepare_process()
    signal.signal(signal.SIGTERM, raise_interrupted)
    try:
        expand_resume()
    except UsageError as error:
        sys.exit(report_error(error))
    import hydra

    register_resolvers()
    os.environ["TRAIN_FULL_ERROR"] = str(int(wants_traceback))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra hand its errors on instead of printing them its way
    app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(task)
    try:
        app()
    except Exception as error:
        if wants_traceback:
            raise
        sys.exit(report_error(explain_folder_error(error) or error))
    except KeyboardInterrupt as error:
        print("train: interrupted", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, Interrupted) else 130)
    from train.sweep import conclude

    if conclude.exit_codes:  # judged by the folders of its runs, wherever these ran
        sys.exit(conclude.exit_codes[-1])
    if any(exit_codes):
        sys.exit(exit_codes[0] if len(exit_codes) == 1 else 1)


def explain_folder_error(error: Exception) -> UsageError | None:
    """Hydra makes the folder of a run, and may be refused by the system."""
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{os.fsdecode(error.filename)}: this folder cannot be made or written ({error.strerror}).")
    return None


def report_error(error: Exception) -> int:
    """Say in one message what went wrong; returns the exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, HydraException | OmegaConfBaseException):
        from train.config_errors import explain

        error = UsageError(explain(error, config_dir(), sys.argv[1:]))
    if isinstance(error, UsageError | RunError):
        print(f"train: {error}", file=sys.stderr)
        return error.exit_code
    import traceback

    traceback.print_exception(error)
    return 1


if __name__ == "__main__":
    main()
