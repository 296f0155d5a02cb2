"""Which layers of networks of several sizes are compared with each other.

Networks of several widths have the same layers. Of several depths they have not, so layers are compared at the same relative
depth: of n layers of a kind those at shares 0, 1/4, 1/2, 3/4 and 1 of n - 1. Where depth adds whole blocks, as in a residual net,
the last layer of each block stands for it, as that is where the sum is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.tags import layers_of, module_of

MOST_PLACES = 5
PLACES, LOGITS = ("output ", "weights "), "logits"
"""How the labels of places begin that are no names of layers, and the label of the last."""


@dataclass(frozen=True)
class Place:
    """A layer that all networks have. `names`: size -> the name of its output there; `is_hidden`: its outputs are no logits;
    `statistics`: those that are compared."""

    label: str
    names: Mapping[float, str]
    is_hidden: bool
    statistics: tuple[str, ...]


OUTPUT, UPDATE = ("activation_std", "gradient_std"), "update_ratio"


@dataclass(frozen=True)
class Layers:
    """The layers of one network in the order of execution. `weighted`: outputs of layers with weights, the last of them the
    logits; `activations`: all others."""

    outputs: tuple[str, ...]
    weighted: tuple[str, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if name not in self.weighted)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The outputs that are comparable with each other: activations, or weighted layers where there are none."""
        return self.activations or self.weighted[:-1]


def layers_in(tags: Sequence[str]) -> Layers:
    """Return the layers of a network, from the tags of a record that observes all of them."""
    outputs = tuple(layers_of("activation_std", tags))
    with_weights = set(layers_of("weight_std", tags))
    return Layers(outputs, tuple(name for name in outputs if module_of(name) in with_weights))


def places_by_name(networks: Mapping[float, Layers]) -> tuple[Place, ...]:
    """Return every layer that all networks have, in the order of the largest."""
    largest = networks[max(networks)]
    shared = [name for name in largest.outputs if all(name in layers.outputs for layers in networks.values())]
    logits = largest.weighted[-1:]
    return tuple(
        Place(
            name,
            dict.fromkeys(networks, name),
            name not in logits,
            (*OUTPUT, UPDATE) if name in largest.weighted and name == module_of(name) else OUTPUT,
        )
        for name in shared
    )


def places_by_depth(networks: Mapping[float, Layers]) -> tuple[Place, ...]:
    """Return layers at the same relative depth: activations, then layers with weights for their updates, then the logits."""
    hidden = {size: layers.hidden for size, layers in networks.items()}
    weighted = {size: tuple(dict.fromkeys(map(module_of, layers.weighted[:-1]))) for size, layers in networks.items()}
    logits = {size: layers.weighted[-1] for size, layers in networks.items() if layers.weighted}
    output, weights = PLACES
    places = [Place(f"{output}{where}", names, True, OUTPUT) for where, names in _at_shares(hidden)]
    places += [Place(f"{weights}{where}", names, True, (UPDATE,)) for where, names in _at_shares(weighted)]
    if len(logits) == len(networks):
        places.append(Place(LOGITS, logits, False, (*OUTPUT, UPDATE)))
    return tuple(places)


def _at_shares(layers: Mapping[float, Sequence[str]]) -> list[tuple[str, dict[float, str]]]:
    """Return (where, size -> layer) for evenly spaced shares of the depth."""
    containers = {size: list(dict.fromkeys(map(_container, names))) for size, names in layers.items()}
    if len({len(found) for found in containers.values()}) > 1:
        layers = {size: _last_of_each(names) for size, names in layers.items()}
    count = min(MOST_PLACES, *map(len, layers.values())) if len(layers) > 1 else 0
    if count < 2:
        return [("at the end", {size: names[-1] for size, names in layers.items()})] if count else []
    places = []
    for place in range(count):
        share = place / (count - 1)
        names = {size: found[round(share * (len(found) - 1))] for size, found in layers.items()}
        places.append((_where(share), names))
    return places


def _where(share: float) -> str:
    return {0.0: "at the start", 1.0: "at the end"}.get(share, f"at {100 * share:.0f} % of the depth")


def _container(name: str) -> str:
    return name.rpartition(".")[0]


def _last_of_each(names: Sequence[str]) -> tuple[str, ...]:
    return tuple({_container(name): name for name in names}.values())
