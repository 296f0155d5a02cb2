"""Mean and std of a layer's output at every step, for next to nothing, where a batch norm follows: it has computed them already.

A batch norm leaves a trace of each batch in its running averages, new = (1 - m) old + m batch with its momentum m. From the
averages before and after an update follows what the batch had: batch = old + (new - old) / m, channel by channel, and from
its channels the mean and std of the whole layer. Nothing is attached to the model, so this holds for a compiled one too.

Letters: R rows (steps), L layers, C channels of all these layers together, c of one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.observe.isolation import isolated
from train.observe.layers import TRIAL_IMAGES, LayerCall
from train.parts.contracts import Shape

MOST_ROWS = 2000
"""As many rows a run has at most; a longer one has them at every second, third, ... step."""

ROUNDING = 2.0**-23
"""Of a running average, relative to it: at most one unit in the last place of float32 for each of the two terms."""

MAX_ROUNDING_SHARE = 0.01
"""A value is given where rounding has moved it by at most this share of the layer's std. The first steps of a signal far smaller
than the 1 with which running variances begin are left out by that: the averages do not hold it."""


@dataclass(frozen=True)
class NormalizedLayer:
    """A layer whose output, as it is, is what a batch norm normalises.

    `means`, `variances` [c]: the norm's running averages, and `batches` [1] how often they were updated: its own tensors, whose
    content changes. `positions`: values per image and channel.
    """

    layer: str
    means: Tensor
    variances: Tensor
    batches: Tensor
    momentum: float
    positions: int


def find_normalized_layers(model: nn.Module, sites: Sequence[LayerCall], input_shape: Shape) -> tuple[NormalizedLayer, ...]:
    """Those of `sites` whose output a batch norm with float32 running averages gets, in order of execution.

    Found by running the model, on whatever device it is, on two black images. Left out are norms that are called more than once
    (their averages mix several batches) or that average over all steps (momentum null), and outputs changed before the norm.
    """
    names = {(site.module, site.call): site.info.name for site in sites}
    observed = {site.module for site in sites}
    calls: Counter[nn.Module] = Counter()
    outputs: list[tuple[str, Tensor, int]] = []
    found: dict[nn.Module, NormalizedLayer] = {}

    def left(module: str, layer: nn.Module, _: Any, output: Tensor) -> None:
        if name := names.get((module, calls[layer])):
            outputs.append((name, output, output._version))
        calls[layer] += 1

    def entered(norm: _BatchNorm, inputs: Sequence[Tensor]) -> None:
        calls[norm] += 1
        for name, output, version in outputs:
            if inputs and inputs[0] is output and output._version == version:  # the version counts changes in place
                found[norm] = normalized_layer(name, norm, output.numel() // (TRIAL_IMAGES * norm.num_features))

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(isolated(model))
        for name, module in model.named_modules():
            if name in observed:
                stack.callback(module.register_forward_hook(partial(left, name)).remove)
            elif isinstance(module, _BatchNorm) and keeps_averages(module):
                stack.callback(module.register_forward_pre_hook(entered).remove)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        model(torch.zeros(TRIAL_IMAGES, *input_shape, device=device))
    return tuple({each.layer: each for norm, each in found.items() if calls[norm] == 1}.values())


def keeps_averages(norm: _BatchNorm) -> bool:
    """As exponential averages in float32, with a count of the batches."""
    return bool(norm.momentum) and norm.running_mean is not None and norm.running_mean.dtype is torch.float32


def normalized_layer(layer: str, norm: _BatchNorm, positions: int) -> NormalizedLayer:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    count = norm.num_batches_tracked.view(1)
    return NormalizedLayer(layer, norm.running_mean, norm.running_var, count, norm.momentum or 0.0, positions)


class BatchMoments:
    """Notes the running averages around updates, and says later what mean and std the layers had in them.

    `batch_size`: images of each update; `total`: updates of the run; `room`: how many rows are kept at most, on the device,
    before they are taken. Noting is a few copies between device tensors; the host waits in `take` alone.
    """

    def __init__(self, followed: Sequence[NormalizedLayer], batch_size: int, total: int, room: int) -> None:
        self.layers = tuple(each.layer for each in followed)
        self.every = -(-total // MOST_ROWS) or 1
        self.next_step = 0
        """Steps below this number have been taken, where they had rows."""
        self._steps: list[int] = []
        self._room = room
        if not followed:
            return
        self._sources = [each.means for each in followed] + [each.variances for each in followed]
        self._counters = [each.batches for each in followed]
        self._widths = [len(each.means) for each in followed]
        channels = sum(self._widths)
        device = followed[0].means.device
        self._averages = torch.zeros(room, 2, 2 * channels, device=device)  # before and after; means, then variances
        self._counts = torch.zeros(room, 2, len(followed), dtype=torch.int64, device=device)
        counted = [batch_size * each.positions for each in followed]

        def by_channel(numbers: Sequence[float]) -> Tensor:
            return torch.cat([torch.full((c,), number) for c, number in zip(self._widths, numbers, strict=True)]).to(device)

        self._momentum = by_channel([each.momentum for each in followed]).repeat(2)
        # Running variances average n / (n - 1) times the variance of a batch of n values.
        self._biased = by_channel([(n - 1) / n for n in counted])

    def due(self, step: int) -> bool:
        return bool(self.layers) and step % self.every == 0

    @contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """Inside, update number `step` is made. Steps do not go down."""
        if not self.due(step):
            yield
            return
        assert len(self._steps) < self._room, "rows have to be taken before there are more than there is room for"
        row = len(self._steps)
        self._note(row, 0)
        yield
        self._note(row, 1)
        self._steps.append(step)

    @torch.no_grad()
    def _note(self, row: int, when: int) -> None:
        torch.cat(self._sources, out=self._averages[row, when])
        torch.cat(self._counters, out=self._counts[row, when])

    def pop_rows(self, before: int | None = None) -> list[tuple[int, dict[str, float]]]:
        """(step, tag -> value) of what was noted at steps below `before` (None: of all), once; the one copy to the host.

        Of each layer only where its norm saw exactly one batch in the update, and where rounding leaves enough (TRUSTED).
        """
        count = len(self._steps) if before is None else sum(step < before for step in self._steps)
        if not count:
            return []
        # All rows, used or not: how a device adds up a row may depend on how many there are, and a run that goes on has fewer.
        means, stds, usable = (column[:count].tolist() for column in self._moments())
        rows: list[tuple[int, dict[str, float]]] = []
        for i, step in enumerate(self._steps[:count]):
            known = [j for j in range(len(self.layers)) if usable[i][j]]
            values = {f"activation_mean/{self.layers[j]}": means[i][j] for j in known}
            values |= {f"activation_std/{self.layers[j]}": stds[i][j] for j in known}
            if values:
                rows.append((step, values))
        self.next_step = self._steps[count - 1] + 1
        self._keep(self._steps[count:], self._averages[count:], self._counts[count:])
        return rows

    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, std (dividing by the number of values), and whether they are to be used, each [R, L].

        std^2 = mean over the channels of their variances + variance over the channels of their means. Infinite from 1e19 on,
        where squares leave float32.
        """
        before, after = self._averages.unbind(1)
        batch = before + (after - before) / self._momentum
        rounding = ROUNDING * (before.abs() + after.abs()) / self._momentum
        means, variances = batch.chunk(2, dim=1)
        lost = (~before.isfinite()).float().chunk(2, dim=1)
        channels = torch.stack((means, (variances * self._biased).clamp(min=0), *rounding.chunk(2, dim=1), *lost))  # [6, R, C]
        layers = [layer.mean(2) for layer in channels.split(self._widths, dim=2)]
        parts = zip(means.split(self._widths, dim=1), layers, strict=True)
        between = torch.stack([(mean - whole[0, :, None]).square().mean(1) for mean, whole in parts], dim=1)
        mean, within, mean_error, variance_error, *lost = torch.stack(layers, dim=2)
        std = (within + between).sqrt()
        error = mean_error + variance_error / (2 * std)
        off = error > MAX_ROUNDING_SHARE * std  # never so for NaN: what is not finite is a value like any other
        once = self._counts[:, 1] - self._counts[:, 0] == 1
        return mean, std, once & ~off & (lost[0] + lost[1] == 0)

    def _keep(self, steps: list[int], averages: Tensor, counts: Tensor) -> None:
        self._steps = steps
        self._averages[: len(steps)] = averages[: len(steps)].clone()
        self._counts[: len(steps)] = counts[: len(steps)].clone()

    def state(self) -> dict[str, Any]:
        """What `load_state` makes another one's of the same run."""
        if not self._steps:
            return {"taken": self.next_step, "steps": []}
        used = slice(len(self._steps))
        return {
            "taken": self.next_step,
            "steps": list(self._steps),
            "averages": self._averages[used].clone(),
            "counts": self._counts[used].clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.next_step = state["taken"]
        if state["steps"]:
            self._keep(list(state["steps"]), state["averages"], state["counts"])
