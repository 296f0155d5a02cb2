"""Measurements inside the network, taken by hooks that are attached only for the steps that are due."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from train.config import ObserveSettings
from train.observe.batch_moments import find_normalized_layers
from train.observe.combine import PART, channel_parts
from train.observe.contracts import LayerInfo
from train.observe.layers import LayerCall, find_layer_calls, observed_layers, select_names
from train.observe.measurements import Histogram, MeasurementBuffer, Observation, Table, bin_counts
from train.observe.statistics import activation_statistics, euclidean_norms, gradient_statistics, similarity
from train.observe.weights import WeightObserver
from train.parts.isolation import has_averages, isolated
from train.parts.kinds import WeightedLayer
from train.parts.model.trace import Call
from train.tags import join, measured
from train.world import ALONE, World

__all__ = ["Histogram", "LayerInfo", "Observation", "Observer", "due", "observed_layers"]


def due(step: int, every: int, last: int) -> bool:
    """Return whether something that happens every `every` steps happens at `step`: at 0, at multiples of `every` and at `last`.

    `every` = 0 means never.
    """
    return every > 0 and (step % every == 0 or step == last)


class Observer:
    """Measures the layers of `model` that `settings` select. The numbers stay on the device until `collect`.

    `calls`: what `trace` returned for it; `probe`: images [n, C, H, W] on the device, pre-processed for the model, or None;
    `world`: the ranks that see a part of each batch.
    Construct it while the weights are the initial ones: `weight_distance` is measured relative to them.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: ObserveSettings,
        calls: Sequence[Call],
        probe: Tensor | None = None,
        world: World = ALONE,
    ) -> None:
        self.model = model
        self.world = world
        self.settings = settings
        self.probe = probe
        self._of_outputs, self._of_gradients = (measured(settings.level, prefix) for prefix in ("activation_", "gradient_"))
        self._of_probe = measured("probe", "probe_activation_")
        off = not settings.every and not settings.histogram_every and probe is None
        selected, self._weighted = ([], {}) if off else select_layers(model, calls, settings.layers)
        self.layers: tuple[LayerInfo, ...] = tuple(call.info for call in selected)
        """The observed outputs in order of execution."""
        every_step = settings.every and settings.every_step
        self.normalized_layers = find_normalized_layers(calls, selected) if every_step and selected else ()
        """The outputs whose mean and std are recorded at every step."""
        self._names = [*(layer.name for layer in self.layers), *self._weighted]
        self._calls: dict[str, dict[int, LayerCall]] = defaultdict(dict)
        for call in selected:
            self._calls[call.module][call.call] = call
        self._modules = dict(model.named_modules())
        measures_steps = settings.every or settings.histogram_every
        self._weights = WeightObserver(self._weighted, measured(settings.level) if measures_steps else ())
        self._buffer = MeasurementBuffer()
        self._gradients: dict[str, dict[int, Tensor]] = {}
        """Those of the parameters, by layer and `id`, until they are measured."""
        self._gradient_norms: dict[str, Tensor] = {}
        self._scale: Tensor | float = 1.0

    def due(self, step: int, last: int) -> bool:
        """Return whether the train step number `step` (from 0) is to be observed."""
        return due(step, self.settings.every, last) or self.histograms_due(step, last)

    def histograms_due(self, step: int, last: int) -> bool:
        return due(step, self.settings.histogram_every, last)

    def collect(self) -> Observation:
        """Return everything measured since the last call."""
        return self.send()()

    def send(self) -> Callable[[], Observation]:
        """Copy everything measured since the last call to the host, the only copy, and return what waits for it."""
        return self._buffer.send(self._names, self.world)

    def take(self) -> Table | None:
        """Return what was measured by hooks since the last call as one tensor on the device; `put` adds it for `collect`."""
        return self._buffer.take()

    def put(self, table: Table) -> None:
        """Add what was taken."""
        self._buffer.put(table)

    @contextmanager
    def observing_signals(self, scale: Tensor, histograms: bool = False) -> Iterator[None]:
        """Measure one forward and backward pass of the model; outside the context no hook is attached.

        `scale`: the loss scale, the factor on the loss from which the backward pass starts. Gradients are measured as the
        backward pass computes them; those of parameters at its end, by `note_gradients`, or when the context ends.
        """

        def on_output(call: LayerCall, output: Tensor) -> None:
            self._measure_output(call, output, histograms)
            if output.requires_grad:
                stack.callback(output.register_hook(lambda gradient: self._measure_gradient(call, gradient, scale)).remove)

        self._gradients = {name: {} for name in self._weighted}
        self._gradient_norms, self._scale = {}, scale
        with ExitStack() as stack:
            stack.enter_context(self._hooked(on_output))
            for name, layer in self._weighted.items() if self.world.is_alone else ():
                for parameter in layer.parameters(recurse=False):
                    if parameter.requires_grad:
                        stack.callback(parameter.register_hook(_keeping_first(self._gradients[name], id(parameter))).remove)
            yield
        self.note_gradients()
        for name, norm in self._gradient_norms.items():
            self._buffer.add("", name, {"parameter_gradient_norm": norm})

    @torch.no_grad()
    def note_gradients(self) -> None:
        """Measure the gradients of the parameters after the first backward pass, before clipping or a second pass changes them.

        On several devices, only then they are of the whole batch.
        """
        if not self.world.is_alone:
            self._gradients = {name: _gradients_of(layer) for name, layer in self._weighted.items()}
        layers = {name: list(gradients.values()) for name, gradients in self._gradients.items() if gradients}
        self._gradients = {}
        if layers:
            norms = euclidean_norms([gradient for gradients in layers.values() for gradient in gradients])
            of_layers = euclidean_norms(norms.split([len(gradients) for gradients in layers.values()])) / self._scale
            self._gradient_norms = dict(zip(layers, of_layers.unbind(), strict=True))

    @contextmanager
    def observing_weights(self) -> Iterator[None]:
        """Measure the weights around one train step."""
        self.measure_weights()
        before = self._weights.before()
        yield
        self._weights.after(before, self._buffer)

    def measure_weights(self) -> None:
        """Measure the current weights, without a train step."""
        self._weights.measure(self._buffer)

    @torch.no_grad()
    def observe_probe(self, autocast: AbstractContextManager[Any], restore_random: bool = True) -> None:
        """Measure a forward pass on the probe in evaluation mode (no dropout), with norms that use the probe's own statistics.

        Layers then compute what they compute in training, without its randomness, and the result does not depend on how far
        running averages have converged. `restore_random`: as for `isolated`.
        """
        if self.probe is None:
            return

        def on_output(call: LayerCall, output: Tensor) -> None:
            statistics = activation_statistics(output, call.channel_dim, call.info.function, self._of_probe)
            self._buffer.add("probe_activation_", call.info.name, statistics)
            self._buffer.add("probe_", call.info.name, {"similarity": similarity(output)})

        with isolated(self.model, has_averages, restore_random), self._hooked(on_output), autocast:
            self.model(self.probe)

    @contextmanager
    def _hooked(self, on_output: Callable[[LayerCall, Tensor], None]) -> Iterator[None]:
        """Call `on_output` with every output of an observed layer, before any later operation can overwrite it in place."""
        counts: Counter[str] = Counter()

        def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def measure(_: nn.Module, __: Any, output: Tensor) -> None:
                call = self._calls[name].get(counts[name])
                counts[name] += 1
                if call is not None:
                    on_output(call, output)

            return measure

        with ExitStack() as stack:
            stack.callback(counts.clear)
            for name in self._calls:
                stack.callback(self._modules[name].register_forward_hook(hook(name)).remove)
            try:
                yield
            except BaseException:
                self._buffer.clear()
                raise

    @torch.no_grad()
    def _measure_output(self, call: LayerCall, output: Tensor, histograms: bool) -> None:
        y, info = output.detach(), call.info
        self._buffer.add("activation_", info.name, activation_statistics(y, call.channel_dim, info.function, self._of_outputs))
        if not self.world.is_alone:
            self._buffer.add_row(join(f"{PART}channels", info.name), channel_parts(y, call.channel_dim))
        if histograms:
            self._buffer.add_row(join("activation_histogram", info.name), bin_counts(y))

    @torch.no_grad()
    def _measure_gradient(self, call: LayerCall, gradient: Tensor, scale: Tensor) -> None:
        self._buffer.add("gradient_", call.info.name, gradient_statistics(gradient.detach(), scale, self._of_gradients))
        if not self.world.is_alone:
            self._buffer.add(PART, call.info.name, {"gradient_mean": gradient.detach().float().mean() / scale})


def _keeping_first(gradients: dict[int, Tensor], key: int) -> Callable[[Tensor], None]:
    """Return a hook that keeps the gradient of the first backward pass; a step may make a second one."""

    def keep(gradient: Tensor) -> None:
        gradients.setdefault(key, gradient.detach())

    return keep


def _gradients_of(layer: nn.Module) -> dict[int, Tensor]:
    parameters = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
    return {id(parameter): parameter.grad for parameter in parameters if parameter.grad is not None}


def select_layers(
    model: nn.Module, calls: Sequence[Call], patterns: str | Sequence[str]
) -> tuple[list[LayerCall], dict[str, nn.Module]]:
    """Return the outputs and the layers with weights that `observe.layers` matches, in order of execution.

    Layers whose module is not called, such as the projection in nn.MultiheadAttention, come last. UsageError when a pattern
    matches nothing.
    """
    layer_calls = find_layer_calls(calls)
    weighted = {name: module for name, module in observed_layers(model).items() if isinstance(module, WeightedLayer)}
    names = set(select_names(list(dict.fromkeys([*(call.info.name for call in layer_calls), *weighted])), patterns))
    order = dict.fromkeys([*(call.module for call in layer_calls), *weighted])
    selected = [call for call in layer_calls if call.info.name in names]
    return selected, {name: weighted[name] for name in order if name in weighted and name in names}
