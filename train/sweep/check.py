"""Check that every arm of a sweep can run, before its first job starts. Needs torch, so workers of the fork server do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.sweep.devices import cpu_cores
from train.sweep.fork_server import ForkServer

CALL = "train.run.rehearsal:check_configs"
MIN_CONFIGS_PER_WORKER = 8
"""Configurations; a child takes some 50 ms for each, and half a second to load the bundled data."""


def find_impossible(
    arms: Mapping[str, Mapping[str, Any]], trust: tuple[str, ...], fork_server: ForkServer, environment: Mapping[str, str]
) -> dict[str, str]:
    """Of the configurations (id -> experiment, resolved) those that no run could start with: id -> reason. `trust`: the packages,
    besides ours, whose functions they may name; `environment`: variables that show a run the device it will have."""
    ids = list(arms)
    share = max(MIN_CONFIGS_PER_WORKER, -(-len(ids) // cpu_cores()))
    pending = [ids[start : start + share] for start in range(0, len(ids), share)]
    found: dict[str, str] = {}
    while pending:
        groups = {
            fork_server.start(CALL, ([dict(arms[id]) for id in group], trust), environment=environment).id: group
            for group in pending
        }
        pending = []
        while groups:
            for ended in fork_server.wait():
                group = groups.pop(ended.worker.id)
                if isinstance(ended.value, list):
                    found |= {id: reason for id, reason in zip(group, ended.value, strict=True) if reason is not None}
                elif len(group) > 1:
                    pending += [[id] for id in group]  # one of them took the process down: which? Its run will tell
    return found
