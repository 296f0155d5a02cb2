"""The pre-flight of single runs for every arm of a sweep, before its first job. It needs torch: children of the nursery do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.sweep.devices import cores
from train.sweep.nursery import Nursery

CALL = "train.run.trial:check_each"
WORTH_A_CHILD = 8
"""Configurations; a child takes some 50 ms for each, and half a second to load the bundled data."""


def impossible(
    arms: Mapping[str, Mapping[str, Any]], trust: tuple[str, ...], nursery: Nursery, environment: Mapping[str, str]
) -> dict[str, str]:
    """Of the configurations (id -> experiment, resolved) those that no run could start with: id -> reason. `trust`: the packages,
    besides ours, whose functions they may name; `environment`: variables that show a run the device it will have."""
    ids = list(arms)
    share = max(WORTH_A_CHILD, -(-len(ids) // cores()))
    pending = [ids[start : start + share] for start in range(0, len(ids), share)]
    found: dict[str, str] = {}
    while pending:
        groups = {
            nursery.start(CALL, ([dict(arms[id]) for id in group], trust), environment=environment).id: group for group in pending
        }
        pending = []
        while groups:
            for ended in nursery.wait():
                group = groups.pop(ended.child.id)
                if isinstance(ended.value, list):
                    found |= {id: reason for id, reason in zip(group, ended.value, strict=True) if reason is not None}
                elif len(group) > 1:
                    pending += [[id] for id in group]  # one of them took the process down: which? Its run will tell
    return found
