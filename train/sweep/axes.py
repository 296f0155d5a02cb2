"""Parsing of a sweep's command line: `norm=none,batch seed=range(5) trainer.epochs=3` -> axes, seed axes and constants."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from train.command import NO_CHOICE
from train.errors import UsageError
from train.naming import BASELINE
from train.store.identity import SEEDS

SWEEP_ONLY = ("sweep", "report", "study")
"""Top-level keys that configure the sweep and never reach a run."""


@dataclass(frozen=True)
class Axis:
    """A key with several levels.

    `name`: the key or config group; `key`: the same with the `+` prefix, if one was typed; `levels`: values as Hydra reads them.
    """

    name: str
    key: str
    levels: tuple[str, ...]

    @property
    def is_seed(self) -> bool:
        return self.name.partition(".")[0] in SEEDS


@dataclass(frozen=True)
class SweepRequest:
    """The axes, seed axes and constants of a command.

    `order`: names of axes and constants as typed. The order matters where one key lies inside another. `baseline`: the levels of
    which each arm changes one; None where arms are combinations.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[Axis, ...]
    constants: Mapping[str, str]
    order: tuple[str, ...]
    baseline: Mapping[str, str] | None = None

    def overrides(self, levels: Mapping[str, str]) -> tuple[str, ...]:
        """Return the overrides of a run or an arm at `levels` (axis -> level).

        Axes come before constants, since readers of a name look for what varies.
        """
        keys = {axis.name: axis.key for axis in (*self.axes, *self.seeds)}
        lines = {name: f"{keys[name]}={level}" for name, level in levels.items()} | dict(self.constants)
        axes_first = [name for name in (*keys, *self.constants) if name in lines]
        ordered = [lines[name] for name in (self.order if self._order_matters() else axes_first) if name in lines]
        return tuple(line for line in ordered if line not in NO_CHOICE)

    def axes_alone(self, levels: Mapping[str, str]) -> list[str]:
        """Return what of `levels` names a run: the overrides of the axes, without those of the baseline, and the seeds last."""
        common = self.baseline or {}
        lines = [
            f"{axis.key}={levels[axis.name]}" for axis in self.axes if levels.get(axis.name) not in (None, common.get(axis.name))
        ]
        lines = [line for line in lines if line not in NO_CHOICE]
        seeds = [f"{axis.key}={levels[axis.name]}" for axis in self.seeds if axis.name in levels]
        return [*(lines or [BASELINE] * (self.baseline is not None)), *seeds]

    def _order_matters(self) -> bool:
        axes = [axis.name for axis in (*self.axes, *self.seeds)]
        return any(_nested(axis, name.lstrip("~")) for axis in axes for name in self.constants)


def _nested(left: str, right: str) -> bool:
    return left == right or left.startswith(f"{right}.") or right.startswith(f"{left}.")


def read_request(
    preset: Mapping[str, Any] | None,
    arguments: Sequence[str],
    loader: ConfigLoader | None,
    tuned: Mapping[str, Sequence[Any]] | None = None,
) -> SweepRequest:
    """Parse the command-line `arguments` and the preset into a request.

    `preset`: `hydra.sweeper.params`; `arguments` override it key by key. `tuned`: key -> the levels that `sweep.tune` names,
    which take the place of a value of the preset. UsageError for axes that cannot be enumerated, or for one value of a tuned key.
    """
    lines = [f"{key}={_override_value(value)}" for key, value in (preset or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides([*lines, *arguments])
    overrides = {_name(override): override for override in parsed}
    typed = {_name(override) for override in parsed[len(lines) :]}
    sweep_only = {name for name in overrides if re.split(r"[.@]", name.lstrip("~"))[0] in SWEEP_ONLY}
    for name in sorted(sweep_only):
        if overrides[name].is_sweep_override():
            line = overrides[name].input_line
            raise UsageError(f"{line}: this key configures the sweep and cannot be swept. Give one value (or a list, [A,B]).")
    rest = {name: override for name, override in overrides.items() if name not in sweep_only}
    axes = [_axis(name, override) for name, override in rest.items() if override.is_sweep_override()]
    for axis in _tuned_axes(tuned or {}, {axis.name for axis in axes}):
        if axis.name in typed:
            line, tried = rest[axis.name].input_line, ", ".join(axis.levels)
            raise UsageError(
                f"{line}: sweep.tune tries {axis.name} at {tried} for every arm. "
                "To train at this value alone, add sweep.tune=null."
            )
        rest.pop(axis.name, None)
        axes.append(axis)
    return SweepRequest(
        axes=tuple(axis for axis in axes if not axis.is_seed),
        seeds=tuple(axis for axis in axes if axis.is_seed),
        constants={name: str(o.input_line) for name, o in rest.items() if not o.is_sweep_override()},
        order=tuple(dict.fromkeys((*rest, *(axis.name for axis in axes)))),
    )


def _tuned_axes(tuned: Mapping[str, Sequence[Any]], typed: Collection[str]) -> Iterator[Axis]:
    """Yield the axes that `sweep.tune` names with their levels. An axis of the command or the preset has its own levels."""
    for key, levels in tuned.items():
        if (name := key.lstrip("+")) not in typed:
            if not levels:
                raise UsageError(f"sweep.tune={{{key}: []}}: there is no level to try. Give it several.")
            yield Axis(name, key, tuple(map(_override_value, levels)))


def level_text(value: Any) -> str:
    """Format a configuration value the way Hydra formats a swept one."""
    return str(Override._get_value_element_as_str(value))


def _override_value(value: Any) -> str:
    """Format a value of a preset's YAML as on the command line; strings are in that form already."""
    return value if isinstance(value, str) else level_text(value)


def _key_and_package(override: Override) -> str:
    return override.key_or_group + (f"@{override.package}" if override.package is not None else "")


def _name(override: Override) -> str:
    return ("~" if override.is_delete() else "") + _key_and_package(override)


def _axis(name: str, override: Override) -> Axis:
    line = override.input_line
    if not override.is_discrete_sweep():
        raise UsageError(
            f"{line}: this sweeper tries listed values only. Write {name}=1,2,3 or '{name}=range(1,4)', or search with optuna."
        )
    levels = tuple(override.sweep_string_iterator())
    if not levels:
        raise UsageError(f"{line}: this axis has no levels.")
    return Axis(name, override.get_key_element(), levels)
