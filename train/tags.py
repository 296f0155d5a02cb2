"""The table of all statistics of layers, and tags, which name the values of a record.

A tag is `statistic/layer`, or `loss/train` and its like. The second and later calls of a module in a forward pass are layers of
their own: `name#2`, `name#3`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["basic", "full", "probe"]


@dataclass(frozen=True)
class Statistic:
    """A number that describes a layer. `name`: the first part of its tags.

    `group`, `title`: the category and the title of its chart in TensorBoard. `level`: the lowest `observe.level` that measures
    it, or `probe` if it is measured on the probe alone. `is_share`: it lies between 0 and 1; `is_signed`: on both sides of 0.
    `heat_map`: the heading of its heat map of a run, if it has one. `signal`: its words in a report, if the report draws it for
    all arms. `diagnosed`: a value that is not finite is a finding of the diagnosis. `breaks`: such a value is marked in every
    heat map of the run.
    """

    name: str
    group: str
    title: str
    level: Level = "basic"
    is_share: bool = False
    is_signed: bool = False
    heat_map: str = ""
    signal: str = ""
    diagnosed: bool = False
    breaks: bool = False


STATISTICS = (
    Statistic(
        "activation_std",
        "activations",
        "std",
        heat_map="std of the activations",
        signal="standard deviation of the activations",
        diagnosed=True,
        breaks=True,
    ),
    Statistic("activation_mean", "activations", "mean", is_signed=True, heat_map="mean of the activations", diagnosed=True),
    Statistic("activation_dead", "activations", "share of dead channels", is_share=True, heat_map="share of dead channels"),
    Statistic("activation_zero", "activations", "share of exact zeros", is_share=True),
    Statistic("activation_saturated", "activations", "share of saturated values", is_share=True),
    Statistic("activation_nonfinite", "activations", "values that are not finite", diagnosed=True),
    Statistic("activation_channel_mean_sq", "activations", "mean square of a channel's mean", "full"),
    Statistic("activation_channel_var", "activations", "mean variance within a channel", "full"),
    Statistic(
        "gradient_std",
        "gradients",
        "std at the outputs",
        heat_map="std of the gradients at the outputs",
        signal="standard deviation of the gradients",
        diagnosed=True,
        breaks=True,
    ),
    Statistic("parameter_gradient_norm", "gradients", "norm at the parameters", diagnosed=True),
    Statistic("gradient_nonfinite", "gradients", "values that are not finite", "full", diagnosed=True),
    Statistic("weight_std", "weights", "std", diagnosed=True),
    Statistic("weight_distance", "weights", "distance from initialisation", "full"),
    Statistic(  # it does not break a run: it is infinite where a weight starts at zero
        "update_ratio", "weights", "update ratio", heat_map="update ratio |w after - w before| / |w before|", diagnosed=True
    ),
    Statistic("probe_activation_std", "probe", "activation std", "probe"),
    Statistic("probe_activation_mean", "probe", "activation mean", "probe"),
    Statistic("probe_activation_dead", "probe", "share of dead channels", "probe", is_share=True),
    Statistic("probe_similarity", "probe", "mean cosine between inputs", "probe"),
)
"""The one table. What is measured, TensorBoard's charts, heat maps, figures of a report and the diagnosis follow from it."""


def measured(level: Level, prefix: str = "") -> frozenset[str]:
    """Return the names of the statistics that `level` measures and that begin with `prefix`, without the prefix."""
    levels = ("basic", "full") if level == "full" else (level,)
    names = (statistic.name for statistic in STATISTICS if statistic.level in levels)
    return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def diagnosed(group: str) -> frozenset[str]:
    """Return the names of the statistics of a group whose non-finite values the diagnosis reports."""
    return frozenset(statistic.name for statistic in STATISTICS if statistic.group == group and statistic.diagnosed)


def join(statistic: str, layer: str) -> str:
    """Return the tag of a statistic of a layer. TensorBoard groups tags by what stands before the slash."""
    return f"{statistic}/{layer}"


def split(tag: str) -> tuple[str, str]:
    """Return the statistic and the layer of a tag, or `loss` and `train`; the second is empty for a tag without a slash."""
    statistic, _, layer = tag.partition("/")
    return statistic, layer


def layers_of(statistic: str, tags: Iterable[str]) -> list[str]:
    """Return the layers that have this statistic, in the order of the tags."""
    return [layer for name, layer in map(split, tags) if name == statistic]


def layer_of(module: str, call: int) -> str:
    """Return the name of the layer that is call number `call` (from 0) of `module`: `act`, `act#2`, ..."""
    return f"{module}#{call + 1}" if call else module


def module_of(layer: str) -> str:
    """Return the name of the module of a layer: `act#2` -> `act`."""
    return layer.partition("#")[0]
