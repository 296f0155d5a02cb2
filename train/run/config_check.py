"""What a worker finds out about a configuration, for the command that asked it. Imports no torch, as that command does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from train.store.inputs import Inputs


@dataclass(frozen=True)
class ConfigCheck:
    """What a dry run found out about a configuration.

    `problem`: why no run can start with it, or None; `needed_bytes`: the GPU memory of a run, None if not asked for or unknown.
    `unread` and `notes`: sentences on overrides without effect on it, which are refused and noted, by override. `inputs`: what
    goes into a run besides the configuration, None if that is unknown.
    """

    problem: str | None = None
    needed_bytes: int | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
