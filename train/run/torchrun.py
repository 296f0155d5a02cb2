"""Whether torchrun, or a launcher that sets the same variables, has started this process with others. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from train.errors import UsageError

VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def started_by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is one of several that were started together."""
    return environment.keys() >= VARIABLES and environment["WORLD_SIZE"] not in ("", "1")


def is_other_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is another than the first of them, which alone reads the command."""
    return started_by_torchrun(environment) and environment["RANK"] != "0"


def refuse_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError, as a sweep starts the processes of its runs itself."""
    if started_by_torchrun(environment):
        raise UsageError(
            f"torchrun has started {environment['WORLD_SIZE']} processes, but a sweep starts those of its runs itself. "
            "Leave torchrun out, and set trainer.devices."
        )


def refuse_other_size(devices: int, environment: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError where the configuration does not say how many processes there are: its results depend on that."""
    size = environment["WORLD_SIZE"]
    if str(devices) != size:
        raise UsageError(
            f"trainer.devices={devices}: torchrun has started {size} processes (WORLD_SIZE={size}). Use trainer.devices={size}, "
            f"or let torchrun start {devices}."
        )
