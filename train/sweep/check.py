"""The check that every arm of a sweep can run, before its first job. It needs torch, so workers of the fork server do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.run.trust import trusted
from train.sweep.devices import cpu_cores
from train.sweep.fork_server import ForkServer

CALL = "train.run.dry_run:check_configs"
MIN_CONFIGS_PER_WORKER = 8
"""A worker takes some 50 ms per configuration, and half a second to load the bundled data."""


def find_impossible(
    arms: Mapping[str, Mapping[str, Any]], fork_server: ForkServer, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return id -> reason for every configuration that no run could start with.

    `arms`: id -> resolved experiment; `environment`: variables that give the worker the device that a run will have.
    """
    ids = list(arms)
    group_size = max(MIN_CONFIGS_PER_WORKER, -(-len(ids) // cpu_cores()))
    pending = [ids[start : start + group_size] for start in range(0, len(ids), group_size)]
    reasons: dict[str, str] = {}
    while pending:
        groups = {
            fork_server.start(CALL, ([dict(arms[id]) for id in group], trusted()), environment=environment): group
            for group in pending
        }
        pending = []
        while groups:
            for worker in fork_server.wait():
                group = groups.pop(worker)
                if isinstance(worker.value, list):
                    reasons |= {id: reason for id, reason in zip(group, worker.value, strict=True) if reason is not None}
                elif len(group) > 1:
                    pending += [[id] for id in group]  # one of them crashed the worker; alone, its own run will report the crash
    return reasons
