"""The check that every arm of a sweep can run, and which stored runs are the same, before its first job.

Both need the data, and so torch: workers of the fork server do it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.progress import Tell
from train.run.config_check import ConfigCheck
from train.run.trust import trusted
from train.sinks.loading import loading_view
from train.store.identity import place_of_data, with_place
from train.store.inputs import Inputs
from train.store.manifest import Manifest
from train.sweep.devices import cpu_cores
from train.sweep.fork_server import ForkServer, Worker
from train.sweep.plan import SweepPlan
from train.sweep.reuse import RunStatus, run_statuses

CALL = "train.run.dry_run:check_configs"
FIRST_BATCHES = "train.run.dry_run:first_batches"
TOLD_EVERY_S = 0.25
MIN_CONFIGS_PER_WORKER = 8
"""A worker takes some 50 ms per configuration, and half a second to load the bundled data."""


@dataclass(frozen=True)
class ArmChecks:
    """What was found out about the arms of a sweep.

    `impossible`: id -> reason for every arm that no run could start with; `needed_bytes`: the GPU memory of a run of the largest
    arm, None if it was not asked for or is unknown for one of them. `inputs`: id -> what goes into the runs of the arm besides
    their configuration, for every arm of which that is known. `unread`, `notes`: sentences on what was typed without effect on
    any of the other arms; the first are refused.
    """

    impossible: Mapping[str, str]
    needed_bytes: int | None
    inputs: Mapping[str, Inputs]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_arms(
    arms: Mapping[str, Mapping[str, Any]],
    fork_server: ForkServer,
    environment: Mapping[str, str],
    with_memory: bool,
    typed: Sequence[str],
) -> ArmChecks:
    """Check every configuration and, `with_memory`, estimate the GPU memory that its runs need.

    `arms`: id -> resolved experiment; `environment`: variables that give the worker the device that a run will have; `typed`: the
    overrides on the command line.
    """
    ids = list(arms)
    with loading_view(sys.stdout) as tell:
        found = _found(arms, fork_server, environment, with_memory, typed, tell)
    impossible = {id: check.problem for id, check in found.items() if check.problem is not None}
    sizes = [found[id].needed_bytes if id in found else None for id in ids if id not in impossible]
    inputs = {id: check.inputs for id, check in found.items() if check.inputs is not None}
    checked = [check for check in found.values() if check.problem is None]
    return ArmChecks(impossible, _largest(sizes), inputs, _common(c.unread for c in checked), _common(c.notes for c in checked))


def _found(
    arms: Mapping[str, Mapping[str, Any]],
    fork_server: ForkServer,
    environment: Mapping[str, str],
    with_memory: bool,
    typed: Sequence[str],
    tell: Tell,
) -> dict[str, ConfigCheck]:
    """Return what workers found out about each arm. Nothing of one that crashed its worker: its own run will report that."""
    pending, found = groups_of_arms(arms, cpu_cores()), dict[str, ConfigCheck]()
    while pending:
        groups = {
            fork_server.start(
                CALL, ([dict(arms[id]) for id in group], trusted(), with_memory, list(typed)), environment=environment
            ): group
            for group in pending
        }
        pending = []
        while groups:
            for worker in _ended(fork_server, groups, tell):
                group = groups.pop(worker)
                if isinstance(worker.value, list):
                    found |= zip(group, worker.value, strict=True)
                elif len(group) > 1:
                    pending += [[id] for id in group]  # one of them crashed the worker
    return found


def _ended(fork_server: ForkServer, workers: Collection[Worker], tell: Tell) -> list[Worker]:
    """Wait for one of these workers and return those that have ended. Tells meanwhile how far the data set is that one loads."""
    while not (ended := fork_server.wait(TOLD_EVERY_S, workers)) and any(worker.exit_code is None for worker in workers):
        for told in [worker.told for worker in workers if worker.told is not None][:1]:
            tell(*told)
    return ended


def groups_of_arms(arms: Mapping[str, Mapping[str, Any]], workers: int) -> list[list[str]]:
    """Return the ids of the arms that each worker checks. A folder of images is listed once: by the worker that has its arms."""
    files: dict[str, list[str]] = {}
    rest: list[str] = []
    for id, config in arms.items():
        data = config["data"]
        is_folder = isinstance(data, Mapping) and str(data.get("_target_")).endswith(".image_folder")
        (files.setdefault(str(data.get("root")), []) if is_folder else rest).append(id)
    size = max(MIN_CONFIGS_PER_WORKER, -(-len(rest) // workers))
    return [*files.values(), *(rest[start : start + size] for start in range(0, len(rest), size))]


def _common(sentences: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return the sentences of overrides that have one in every arm, in the words of the first."""
    first, *others = [*sentences] or [{}]
    return tuple(text for override, text in first.items() if all(override in other for other in others))


def compare_with_folder(
    plan: SweepPlan,
    planned: Manifest,
    folder: Path,
    reuse_other_code: bool,
    fork_server: ForkServer,
    environment: Mapping[str, str],
) -> tuple[SweepPlan, list[RunStatus]]:
    """Return the plan, and what the folder holds of it. `planned`: its manifest.

    The data of finished runs that do not record them are found out: by the first batch that each of them would have now.
    """
    runs, configurations = plan.possible_runs, plan.configurations
    statuses = run_statuses(folder, runs, reuse_other_code, configurations, planned)
    places = {arm.id: place_of_data(arm.config) for arm in configurations}
    configs = [
        with_place(status.run.config, places[status.planned.arm])
        for status in statuses
        if status.run is not None and status.run.first_batch and status.run.data_known == "unknown"
    ]
    if not configs:
        return plan, statuses
    plan = replace(plan, first_batches=first_batches(configs, fork_server, environment))
    planned = replace(planned, first_batches=plan.first_batches)
    return plan, run_statuses(folder, runs, reuse_other_code, configurations, planned)


def first_batches(
    configs: Sequence[Mapping[str, Any]], fork_server: ForkServer, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return hash of a first batch -> id of its data, for resolved experiments; nothing for those whose batch cannot be made."""
    worker = fork_server.start(FIRST_BATCHES, ([dict(config) for config in configs], trusted()), environment=environment)
    with loading_view(sys.stdout) as tell:
        _ended(fork_server, [worker], tell)
    return dict(pair for pair in worker.value if all(pair)) if isinstance(worker.value, list) else {}


def _largest(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return max(known) if known and len(known) == len(sizes) else None
