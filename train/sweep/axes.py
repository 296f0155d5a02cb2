"""What a command line asks to be varied: `norm=none,batch seed=range(5) trainer.epochs=3` -> axes, seed axes and constants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from train.errors import UsageError
from train.store.identity import SEEDS

SWEEP_ONLY = ("sweep", "report", "study")
"""What these say concerns the sweep, and reaches no run."""


@dataclass(frozen=True)
class Axis:
    """`name`: the key or group; `key`: the same with the `+` that may have been typed; `levels`: values as Hydra reads them."""

    name: str
    key: str
    levels: tuple[str, ...]

    @property
    def is_seed(self) -> bool:
        return self.name.partition(".")[0] in SEEDS


@dataclass(frozen=True)
class SweepRequest:
    """`order`: the names of axes and constants as typed, which counts where one key lies inside another."""

    axes: tuple[Axis, ...]
    seeds: tuple[Axis, ...]
    constants: Mapping[str, str]
    order: tuple[str, ...]

    def overrides(self, levels: Mapping[str, str]) -> tuple[str, ...]:
        """Those of a run or an arm at `levels` (axis -> level): what varies first, as it is what one looks for in a name."""
        keys = {axis.name: axis.key for axis in (*self.axes, *self.seeds)}
        lines = {name: f"{keys[name]}={level}" for name, level in levels.items()} | dict(self.constants)
        first = [name for name in (*keys, *self.constants) if name in lines]
        return tuple(lines[name] for name in (self.order if self._order_counts() else first) if name in lines)

    def _order_counts(self) -> bool:
        axes = [axis.name for axis in (*self.axes, *self.seeds)]
        return any(_nested(axis, name.lstrip("~")) for axis in axes for name in self.constants)


def _nested(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def read_request(preset: Mapping[str, Any] | None, arguments: Sequence[str], loader: ConfigLoader | None) -> SweepRequest:
    """`preset`: `hydra.sweeper.params`, which `arguments` override key by key. UsageError for what cannot be enumerated."""
    lines = [f"{key}={_typed(value)}" for key, value in (preset or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    asked: dict[str, Override] = {}
    for override in parser.parse_overrides([*lines, *arguments]):
        asked[("~" if override.is_delete() else "") + _bare(override)] = override
    own = {name for name in asked if re.split(r"[.@]", name.lstrip("~"))[0] in SWEEP_ONLY}
    for name in sorted(own):
        if asked[name].is_sweep_override():
            line = asked[name].input_line
            raise UsageError(f"{line}: this key says how to sweep and cannot be swept itself. Give one value (or a list, [A,B]).")
    rest = {name: override for name, override in asked.items() if name not in own}
    axes = [_axis(name, override) for name, override in rest.items() if override.is_sweep_override()]
    return SweepRequest(
        axes=tuple(axis for axis in axes if not axis.is_seed),
        seeds=tuple(axis for axis in axes if axis.is_seed),
        constants={name: str(o.input_line) for name, o in rest.items() if not o.is_sweep_override()},
        order=tuple(rest),
    )


def level_text(value: Any) -> str:
    """A value of a configuration in the form that Hydra gives to a swept one."""
    return str(Override._get_value_element_as_str(value))


def _typed(value: Any) -> str:
    """A value of a preset's YAML as it would be typed; text is typed already."""
    return value if isinstance(value, str) else level_text(value)


def _bare(override: Override) -> str:
    return override.key_or_group + (f"@{override.package}" if override.package is not None else "")


def _axis(name: str, override: Override) -> Axis:
    line = override.input_line
    if not override.is_discrete_sweep():
        raise UsageError(
            f"{line}: this sweeper tries listed values. Write {name}=1,2,3 or {name}=range(1,4), or search with optuna."
        )
    levels = tuple(override.sweep_string_iterator())
    if not levels:
        raise UsageError(f"{line}: this axis has no levels.")
    return Axis(name, override.get_key_element(), levels)
