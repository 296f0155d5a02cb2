"""The command `train-eval FOLDER...`. It imports torch only once its arguments are known to be right."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train.errors import RunError, UsageError
from train.evaluation.arguments import read_arguments, runs_of
from train.run.signals import held_signals
from train.streams import protect_output, replace_unprintable, say_error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console command and exit. The exit code is 2, with one message, for errors that the user can fix."""
    protect_output()
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    replace_unprintable()
    try:
        asked = read_arguments(arguments)
        runs = runs_of(asked.folders)
        with held_signals():
            from train.evaluation.command import evaluate_runs  # imports torch

        return evaluate_runs(asked, runs)
    except (UsageError, RunError) as error:
        say_error("train-eval", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
