"""The identity of a run and of an arm: a versioned hash of the resolved configuration. Standard library only.

Two runs with one identity are the same experiment; two runs with one arm id differ in their seeds only. The rules below keep ids
stable while the program grows:

- a key that is introduced later has a stated default. It is filled in if an older configuration lacks it, and is not hashed at
  that default (`INTRODUCED`);
- a key that sets how a run is executed, not what it computes, is never hashed (`EXECUTION`);
- a function that moves keeps its first name in the hash (`MOVED`).

Version 1 is the hash of commit 03bcfb5, which includes every key. Version 2 ignores execution keys. Version 3 ignores the place
of the data: `run_id` adds their content to the id of a configuration. If all these keys have their defaults, and the data are
unknown, all versions give the same id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VERSION = 3

SEEDS = ("seed", "seeds")
"""The keys that differ between the runs of one arm."""

BOOKKEEPING = ("sweep", "report", "checkpoint", "resume", "trust")
"""The keys that set how runs are organised and stored. No result depends on them."""


@dataclass(frozen=True)
class KeyRule:
    """A dotted key of the configuration, with its default.

    `target`: the rule applies only if the `_target_` of the key's group is this, or begins with it where it ends in a dot; empty:
    always.
    """

    key: str
    default: Any
    target: str = ""

    def applies_to(self, config: Mapping[str, Any]) -> bool:
        """Return whether `config` has the group of this key, with a matching function."""
        group = config.get(self.key.partition(".")[0])
        if not isinstance(group, Mapping):
            return False
        target = str(group.get("_target_", ""))
        return target.startswith(self.target) if self.target.endswith(".") else self.target in ("", target)


def _of_choices(module: str, key: str, default: Any, functions: str) -> tuple[KeyRule, ...]:
    """Return a rule for each of the functions of `module` that had no such key."""
    return tuple(KeyRule(key, default, target=f"{module}.{function}") for function in functions.split())


@dataclass(frozen=True)
class Rules:
    """The changes of the configuration since version 1. `moved`: present `_target_` of a function -> its first one."""

    introduced: tuple[KeyRule, ...] = ()
    execution: tuple[KeyRule, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)


INTRODUCED: tuple[KeyRule, ...] = (
    KeyRule("trainer.cuda_graph", "auto"),
    KeyRule("trainer.devices", 1),
    KeyRule("trainer.score_test", True),
    KeyRule("data.verify", False),
    KeyRule("observe.figures", True),
    *_of_choices("train.parts.optimizer", "optimizer.bias_factor", 1.0, "sgd adamw"),
    *_of_choices("train.parts.optimizer", "optimizer.norm_factor", 1.0, "sgd adamw"),
    *_of_choices("train.parts.optimizer", "optimizer.head_factor", 1.0, "sgd adamw"),
    *_of_choices("train.parts.init", "init.zero_gamma", False, "gaussian xavier glorot kaiming orthogonal lsuv pytorch"),
    *_of_choices("train.parts.norm", "norm.scale", True, "batch layer instance group"),
    *_of_choices("train.parts.norm", "norm.shift", True, "batch layer instance group"),
    *_of_choices("train.parts.norm", "norm.standardize_weights", False, "group"),
    *_of_choices("train.parts.norm", "norm.sync", True, "batch"),
    *_of_choices("train.parts.regularization", "regularization.stochastic_depth", 0.0, "regularization"),
    *_of_choices("train.parts.regularization", "regularization.ema_decay", 0.0, "regularization"),
    *_of_choices("train.parts.regularization", "regularization.sam_radius", 0.0, "regularization"),
    KeyRule("data.train_fraction", 1.0),
    KeyRule("data.decoder", "pillow", target="train.data.image_folder."),
    KeyRule("data.draft", 2.0, target="train.data.image_folder."),
    KeyRule("data.cache", "none", target="train.data.image_folder."),
    KeyRule("data.cache_side", None, target="train.data.image_folder."),
    KeyRule("data.cache_quality", 95, target="train.data.image_folder."),
    KeyRule("data.cache_dir", None, target="train.data.image_folder."),
)

EXECUTION = (
    KeyRule("data.workers", 2),
    KeyRule("data.verify", False),
    KeyRule("data.download", True, target="train.data.torchvision_sets."),
    KeyRule("data.check", True, target="train.data.image_folder."),
    KeyRule("data.cache_dir", None, target="train.data.image_folder."),
    KeyRule("trainer.cuda_graph", "auto"),
    KeyRule("observe.figures", True),
)
"""In the hash, their defaults replace every value, because version 1 hashed these keys."""

PLACE = KeyRule("data.root", None)
"""Where the data lie. Version 2 hashed it; in version 3 its default replaces every value, and what lies there enters the id."""

MOVED: Mapping[str, str] = {}

RULES = Rules(INTRODUCED, EXECUTION, MOVED)


def experiment_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved configuration without its bookkeeping, as a run folder stores it in `config.yaml`."""
    return {str(key): value for key, value in config.items() if key not in BOOKKEEPING}


def identity(config: Mapping[str, Any], version: int = VERSION, rules: Rules = RULES) -> str:
    """Return twelve hexadecimal digits that are equal for equal configurations, on every machine.

    `run_id` makes it the identity of a run. ValueError for a version that does not exist.
    """
    return _hash(canonical(config, version, rules))


def arm_id(config: Mapping[str, Any], tuned: Collection[str] = (), version: int = VERSION, rules: Rules = RULES) -> str:
    """Return the identity of the configuration without its seeds and without the keys `tuned`, which are chosen per arm."""
    content = {key: value for key, value in canonical(config, version, rules).items() if key not in SEEDS}
    for key in tuned:
        content = _without(content, key.split("."))
    return _hash(content)


def with_data(id: str, data: str) -> str:
    """Return the id of a run or an arm from that of its configuration and the id of its data; `id` itself if either is empty."""
    return hashlib.sha256(f"{id} {data}".encode()).hexdigest()[:12] if id and data else id


def run_id(id: str, config: Mapping[str, Any], data: str) -> str:
    """Return the id of a run or an arm from that of its configuration. For unknown data, "", the place in `config` stands."""
    return with_data(id, data or str(place_of_data(config) or ""))


def place_of_data(config: Mapping[str, Any]) -> Any:
    """Return the folder of the data as the configuration names it, None if it names none."""
    return _get(config, PLACE.key) if _has(config, PLACE.key) else None


def with_place(config: Mapping[str, Any], place: Any) -> dict[str, Any]:
    """Return the configuration with the data at `place`."""
    return _with(config, PLACE.key, place) if _has(config, PLACE.key) else dict(config)


def canonical(config: Mapping[str, Any], version: int = VERSION, rules: Rules = RULES) -> dict[str, Any]:
    """Return the content that is hashed. ValueError for a version that does not exist."""
    if not 1 <= version <= VERSION:
        raise ValueError(f"there is no version {version} of the identity; known: 1 to {VERSION}")
    content = upgraded(config, rules)
    replaced = (*(rules.execution if version >= 2 else ()), *((PLACE,) if version >= 3 else ()))
    for rule in replaced:
        if rule.applies_to(content) and _has(content, rule.key):
            content = _with(content, rule.key, rule.default)
    for rule in rules.introduced:
        if rule.applies_to(content) and _get(content, rule.key) == rule.default:
            content = _without(content, rule.key.split("."))
    return _with_targets(content, rules.moved)


def upgraded(config: Mapping[str, Any], rules: Rules = RULES) -> dict[str, Any]:
    """Return an experiment's configuration, possibly of an older version, as the present version would write it.

    Functions that moved get their present names, and keys that did not exist get their defaults.
    """
    targets = {first: present for present, first in rules.moved.items()}
    content = _with_targets(experiment_of(config), targets)
    for rule in rules.introduced:
        if rule.applies_to(content) and not _has(content, rule.key):
            content = _with(content, rule.key, rule.default)
    return content


def current_target(target: str, rules: Rules = RULES) -> str:
    """Return the present path of a function that a configuration names by its present or first path."""
    return next((present for present, first in rules.moved.items() if first == target), target)


def is_execution_key(key: str, rules: Rules = RULES) -> bool:
    """Return whether a dotted key sets how a run is executed, not what it computes."""
    return any(rule.key == key for rule in rules.execution)


def _with_targets(content: Any, names: Mapping[str, str]) -> Any:
    if not names:
        return content
    if isinstance(content, Mapping):
        return {
            key: names.get(value, value) if key == "_target_" and isinstance(value, str) else _with_targets(value, names)
            for key, value in content.items()
        }
    return [_with_targets(item, names) for item in content] if isinstance(content, list) else content


_MISSING = object()


def _get(content: Mapping[str, Any], key: str) -> Any:
    value: Any = content
    for part in key.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _has(content: Mapping[str, Any], key: str) -> bool:
    return _get(content, key) is not _MISSING


def _with(content: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return `content` with `value` at the dotted key, whose group must exist."""
    first, _, rest = key.partition(".")
    return {**content, first: _with(content[first], rest, value) if rest else value}


def _without(content: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return `content` without the value at `path`, if there is one."""
    first, *rest = path
    inner = content.get(first)
    if rest and isinstance(inner, Mapping):
        return {**content, first: _without(inner, rest)}
    return {key: value for key, value in content.items() if rest or key != first}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
