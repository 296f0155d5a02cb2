"""What happens inside the network, measured where it happens: hooks that live only on the steps that are due."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from train.config import ObserveSettings
from train.observe.batch_moments import find_normalized_layers
from train.observe.histogram import Histogram, bin_counts
from train.observe.isolation import isolated
from train.observe.layers import WEIGHTED, LayerCall, LayerInfo, find_layer_calls, is_activation, observed_layers, select_names
from train.observe.measurements import MeasurementBuffer, Observation
from train.observe.statistics import activation_statistics, euclidean_norm, gradient_statistics, similarity
from train.observe.weights import WeightObserver
from train.parts.contracts import Shape

__all__ = ["Histogram", "LayerInfo", "Observation", "Observer", "due", "is_activation", "observed_layers"]

BASIC = frozenset(
    [
        *("activation_mean", "activation_std", "activation_dead", "activation_zero", "activation_saturated"),
        *("activation_nonfinite", "gradient_std", "parameter_gradient_norm", "weight_std", "update_ratio"),
    ]
)
FULL = BASIC | {"activation_channel_mean_sq", "activation_channel_var", "gradient_nonfinite", "weight_distance"}
LEVELS = {"basic": BASIC, "full": FULL}
PROBE = frozenset(["mean", "std", "dead"])


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps happens at `step`: at 0, at multiples of `every` and at `last`.

    `every` = 0 is never.
    """
    return every > 0 and (step % every == 0 or step == last)


class Observer:
    """Measures the layers of `model` that `settings` choose. The numbers stay on the device until `collect`.

    `input_shape`: (C, H, W) of the images; `probe`: images [n, C, H, W] on the device, as the model takes them, or None. To be
    made when the weights are the initial ones: `weight_distance` is measured from there.
    """

    def __init__(self, model: nn.Module, settings: ObserveSettings, input_shape: Shape, probe: Tensor | None = None) -> None:
        self.model = model
        self.settings = settings
        self.probe = probe
        self.wanted = LEVELS[settings.level]
        self._of_output, self._of_gradient = strip_prefix("activation_", self.wanted), strip_prefix("gradient_", self.wanted)
        off = not settings.every and not settings.histogram_every and probe is None
        sites, self._weighted = ([], {}) if off else select_layers(model, input_shape, settings.layers)
        self.layers: tuple[LayerInfo, ...] = tuple(site.info for site in sites)
        """The observed outputs in order of execution."""
        between = settings.every and settings.every_step
        self.normalized_layers = find_normalized_layers(model, sites, input_shape) if between and sites else ()
        """The outputs whose mean and std are known at every step."""
        self._sites: dict[str, dict[int, LayerCall]] = defaultdict(dict)
        for site in sites:
            self._sites[site.module][site.call] = site
        self._modules = dict(model.named_modules())
        live = settings.every or settings.histogram_every
        self._weights = WeightObserver(self._weighted, self.wanted if live else ())
        self._sheet = MeasurementBuffer()

    def due(self, step: int, last: int) -> bool:
        """Whether the update number `step` (from 0) is to be watched."""
        return due(step, self.settings.every, last) or self.histograms_due(step, last)

    def histograms_due(self, step: int, last: int) -> bool:
        return due(step, self.settings.histogram_every, last)

    def collect(self) -> Observation:
        """What was measured since the last time; the one copy from the device to the host."""
        return self._sheet.read([*(layer.name for layer in self.layers), *self._weighted])

    @contextmanager
    def observing_signals(self, scale: Tensor, histograms: bool = False) -> Iterator[None]:
        """Inside, one forward and backward pass of the model is measured; outside nothing is attached to it.

        `scale`: the factor on the loss that the backward pass starts from. Gradients are seen as the backward pass makes them,
        before any clipping.
        """

        def arrived(site: LayerCall, output: Tensor) -> None:
            self._measure_output(site, output, histograms)
            if output.requires_grad:
                stack.callback(output.register_hook(lambda gradient: self._measure_gradient(site, gradient, scale)).remove)

        lengths: dict[str, list[Tensor]] = defaultdict(list)
        with ExitStack() as stack:
            stack.enter_context(self._hooked(arrived))
            for name, layer in self._weighted.items():
                for parameter in layer.parameters(recurse=False):
                    if parameter.requires_grad:
                        add = lengths[name].append
                        stack.callback(
                            parameter.register_hook(lambda gradient, add=add: add(euclidean_norm(gradient.detach()))).remove
                        )
            yield
        for name, parts in lengths.items():
            if parts:
                self._sheet.put("", name, {"parameter_gradient_norm": euclidean_norm(torch.stack(parts)) / scale})

    @contextmanager
    def observing_weights(self) -> Iterator[None]:
        """Inside, one update is made."""
        self.measure_weights()
        before = self._weights.before()
        yield
        self._weights.after(before, self._sheet)

    def measure_weights(self) -> None:
        """The weights as they are, without an update."""
        self._weights.measure(self._sheet)

    @torch.no_grad()
    def observe_probe(self, autocast: AbstractContextManager[Any]) -> None:
        """The forward pass on the probe, in evaluation mode (no dropout) except that norms use the probe's own statistics.

        That is what the layers do in training, without its randomness, and it does not depend on how far running averages are.
        """
        if self.probe is None:
            return

        def arrived(site: LayerCall, output: Tensor) -> None:
            found = activation_statistics(output, site.channel_dim, site.info.function, PROBE)
            self._sheet.put("probe_activation_", site.info.name, found)
            self._sheet.put("probe_", site.info.name, {"similarity": similarity(output)})

        with isolated(self.model, batch_statistics=True), self._hooked(arrived), autocast:
            self.model(self.probe)

    @contextmanager
    def _hooked(self, arrived: Callable[[LayerCall, Tensor], None]) -> Iterator[None]:
        """Inside, `arrived` gets every output of an observed layer, before any later operation can overwrite it in place."""
        calls: Counter[str] = Counter()

        def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def measure(_: nn.Module, __: Any, output: Tensor) -> None:
                site = self._sites[name].get(calls[name])
                calls[name] += 1
                if site is not None:
                    arrived(site, output)

            return measure

        with ExitStack() as stack:
            stack.callback(calls.clear)
            for name in self._sites:
                stack.callback(self._modules[name].register_forward_hook(hook(name)).remove)
            try:
                yield
            except BaseException:
                self._sheet.clear()
                raise

    @torch.no_grad()
    def _measure_output(self, site: LayerCall, output: Tensor, histograms: bool) -> None:
        y, info = output.detach(), site.info
        self._sheet.put("activation_", info.name, activation_statistics(y, site.channel_dim, info.function, self._of_output))
        if histograms:
            self._sheet.put_row(f"activation_histogram/{info.name}", bin_counts(y))

    @torch.no_grad()
    def _measure_gradient(self, site: LayerCall, gradient: Tensor, scale: Tensor) -> None:
        self._sheet.put("gradient_", site.info.name, gradient_statistics(gradient.detach(), scale, self._of_gradient))


def select_layers(
    model: nn.Module, input_shape: Shape, patterns: str | Sequence[str]
) -> tuple[list[LayerCall], dict[str, nn.Module]]:
    """The outputs and the layers with weights that `observe.layers` fits, in order of execution; layers whose module is not
    called, as the projection in nn.MultiheadAttention, come last. UsageError when a pattern fits nothing."""
    sites = find_layer_calls(model, input_shape)
    weighted = {name: module for name, module in observed_layers(model).items() if isinstance(module, WEIGHTED)}
    names = set(select_names(list(dict.fromkeys([*(site.info.name for site in sites), *weighted])), patterns))
    order = dict.fromkeys([*(site.module for site in sites), *weighted])
    return [site for site in sites if site.info.name in names], {n: weighted[n] for n in order if n in weighted and n in names}


def strip_prefix(prefix: str, tags: Collection[str]) -> frozenset[str]:
    """The ends of the tags that begin with `prefix`."""
    return frozenset(tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix))
