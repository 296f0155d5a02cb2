"""What makes two runs the same experiment, and what makes them runs of one arm. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

SEEDS = ("seed", "seeds")
"""The keys in which the runs of one arm differ."""

BOOKKEEPING = ("sweep", "report", "checkpoint", "resume", "trust")
"""The keys that say how runs are organised and kept. No result depends on them."""


def experiment_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration without its bookkeeping: what a run folder keeps as `config.yaml`."""
    return {str(key): value for key, value in config.items() if key not in BOOKKEEPING}


def identity(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits: the same for the same experiment, wherever and at whatever place of a sweep it runs."""
    return _hash(experiment_of(config))


def arm_id(config: Mapping[str, Any], tuned: Collection[str] = ()) -> str:
    """As `identity`, for the configuration without its seeds; and without the keys `tuned`, where those are chosen arm by arm."""
    content = {key: value for key, value in experiment_of(config).items() if key not in SEEDS}
    for key in tuned:
        content = _without(content, key.split("."))
    return _hash(content)


def _without(content: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """`content` less what lies at `path`, if anything does."""
    first, *rest = path
    inner = content.get(first)
    if rest and isinstance(inner, Mapping):
        return {**content, first: _without(inner, rest)}
    return {key: value for key, value in content.items() if rest or key != first}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
