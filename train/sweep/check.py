"""The check that every arm of a sweep can run, before its first job. It needs torch, so workers of the fork server do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.run.trust import trusted
from train.sweep.devices import cpu_cores
from train.sweep.fork_server import ForkServer

if TYPE_CHECKING:
    from train.run.dry_run import ConfigCheck

CALL = "train.run.dry_run:check_configs"
MIN_CONFIGS_PER_WORKER = 8
"""A worker takes some 50 ms per configuration, and half a second to load the bundled data."""


@dataclass(frozen=True)
class ArmChecks:
    """What was found out about the arms of a sweep.

    `impossible`: id -> reason for every arm that no run could start with; `needed_bytes`: the GPU memory of a run of the largest
    arm, None if it was not asked for or is unknown for one of them. `unread`, `notes`: sentences on what was typed without effect
    on any of the other arms; the first are refused.
    """

    impossible: Mapping[str, str]
    needed_bytes: int | None
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
    group_size = max(MIN_CONFIGS_PER_WORKER, -(-len(ids) // cpu_cores()))
    pending = [ids[start : start + group_size] for start in range(0, len(ids), group_size)]
    found: dict[str, ConfigCheck] = {}
    while pending:
        groups = {
            fork_server.start(
                CALL, ([dict(arms[id]) for id in group], trusted(), with_memory, list(typed)), environment=environment
            ): group
            for group in pending
        }
        pending = []
        while groups:
            for worker in fork_server.wait():
                group = groups.pop(worker)
                if isinstance(worker.value, list):
                    found |= zip(group, worker.value, strict=True)
                elif len(group) > 1:
                    pending += [[id] for id in group]  # one of them crashed the worker; alone, its own run will report the crash
    impossible = {id: check.problem for id, check in found.items() if check.problem is not None}
    sizes = [found[id].needed_bytes if id in found else None for id in ids if id not in impossible]
    checked = [check for check in found.values() if check.problem is None]
    return ArmChecks(impossible, _largest(sizes), _common(c.unread for c in checked), _common(c.notes for c in checked))


def _common(sentences: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return the sentences of overrides that have one in every arm, in the words of the first."""
    first, *others = [*sentences] or [{}]
    return tuple(text for override, text in first.items() if all(override in other for other in others))


def _largest(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return max(known) if known and len(known) == len(sizes) else None
