r"""The recursion of mean-field theory over a chain of layers.

Forward. The channels of a layer with random weights are Gaussian with mean 0 and a variance q that all share:

    q' = fan_in var(w) E[phi(sqrt(q) z)^2],   z ~ N(0, 1)          (Poole et al. 2016; He et al. 2015 for ReLU)

q is computed for every image and position of the batch: a window slides over the map of second moments exactly as it slides
over the image, which accounts for dark backgrounds, strides and zero padding. Only channels are averaged.
A norm divides by sigma^2 = mean(q) - K / c, where K is the share of q that is constant over the range of the norm's mean (the
batch and its positions, or those of one image) and c is the number of channels in that range. For batch norm on the activations
of a batch norm, this gives sigma^2 = fan_in var(w) Var[phi].

Backward. With g the mean square of the gradient with respect to a layer's output:

    g = g' fan_out var(w) E[phi'(sqrt(q) z)^2] / sigma^2           (Schoenholz et al. 2017; Yang et al. 2019)

so batch norm -> phi -> linear multiplies g by E[phi'^2] / Var[phi]: pi / (pi - 1) for ReLU.

Limits. Measured relative to predicted std, 8 layers of 1000 units, both directions: within 3 % (tanh, any norm; batch norm with
any activation but the sigmoid) to 20 % (ReLU without batch norm, where every layer adds about 5 / channels to the relative
variance of q). The theory needs many channels: with a norm, measured gradients exceed the prediction more with every layer,
because the mean of 1 / variance is above 1 / mean variance; on real images, 20 layers of 16 to 64 channels give a factor of about
2 (batch, instance), 3 (layer) or 5 (groups of two channels). It needs some hundred images for batch norm, and maps above 5 x 5
for instance norm. Forward values stop at a pooled map, whose variance depends on the correlation between positions, and resume
behind a norm. The outputs of a head are few draws, however wide the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from train.observe.contracts import Expected
from train.observe.theory.channels import inverse_variance
from train.observe.theory.gaussian import gaussian_moments
from train.observe.theory.stages import Activation, Chain, Dropout, Flatten, GlobalPool, Norm, Stage, Uncovered, Weighted

MAX_VALUES = 2**19
"""Maximum number of input values used: enough for the moments, and small enough that a large image's maps fit in memory."""


UNKNOWN_GAIN = "the scale of its gradient depends on the correlation between images and positions"


@dataclass(frozen=True)
class _Signal:
    """The signal between two layers, for N images and maps of H x W; a dimension is 1 if all its entries are equal.

    `second` [N, 1, H, W]: the mean square over channels. `mean` [N, K, H, W]: the mean in each of K kinds of channel (the
    channels of an image; behind an activation there is only one kind), None for 0. `exact`: the signal is measured. `normed`:
    the norm that produced the channels. `source`: the previous weighted layer and its input signal.
    """

    second: Tensor
    mean: Tensor | None = None
    exact: bool = False
    normed: Norm | None = None
    source: tuple[Weighted, _Signal] | None = None


@dataclass(frozen=True)
class _Step:
    """A stage with its output signal, or the reason (`gap`) why that is unknown.

    `gain`: the factor of a norm or activation on g. `even_gain`: the factor of an activation on `_Gradient.even`.
    """

    stage: Stage
    signal: _Signal | None
    gap: str
    gain: Tensor | None = None
    even_gain: Tensor | float = 1.0


@dataclass(frozen=True)
class _Gradient:
    """The gradient between two layers. `g` [N, 1, H, W]: mean square over channels.

    `even` [N, 1, 1, 1]: the part of g, averaged over positions, that a norm of each image and channel would remove: the part
    constant over positions and the part proportional to the normalised map.
    """

    g: Tensor
    even: Tensor | float = 0.0


def predict(chain: Chain, images: Tensor) -> Sequence[Expected]:
    """Predict the output of every weighted layer, norm, activation and uncovered layer of `chain`, in order of execution.

    `images` [N, C, H, W] or [N, C]: a pre-processed batch, the input of the model. Draws no random numbers; all values are
    float64.
    """
    steps = _forward(chain, images)
    gradients = _backward(steps)
    reported = Weighted | Norm | Activation | Uncovered
    layers = [
        _expected(step, g, gap) for step, (g, gap) in zip(steps, gradients, strict=True) if isinstance(step.stage, reported)
    ]
    return [layer for layer in layers if layer.name]


def _expected(step: _Step, g: Tensor | None, backward_gap: str) -> Expected:
    mean = std = None
    if step.signal is not None:
        mean = 0.0 if step.signal.mean is None else step.signal.mean.mean().item()
        std = max(step.signal.second.mean().item() - mean**2, 0.0) ** 0.5
    return Expected(step.stage.name, mean, std, None if g is None else g.mean().sqrt().item(), step.gap, backward_gap)


def _forward(chain: Chain, images: Tensor) -> list[_Step]:
    steps: list[_Step] = []
    signal: _Signal | None = _input(images)
    gap = ""
    for stage in chain:
        step = _propagate(stage, signal, gap)
        if step.signal is not None and not step.signal.second.isfinite().all():
            step = _Step(stage, None, f"the signal overflows at {stage.name}")
        steps.append(step)
        signal, gap = step.signal, step.gap
    return steps


def _input(images: Tensor) -> _Signal:
    count = max(1, MAX_VALUES // images[0].numel())
    x = images[:count].detach().cpu().double()
    x = x.reshape(*x.shape[:2], *(x.shape[2:] or (1, 1)))
    return _Signal(x.square().mean(dim=1, keepdim=True), x, exact=True)


def _propagate(stage: Stage, signal: _Signal | None, gap: str) -> _Step:
    """Return the step of `signal` through one stage."""
    if isinstance(stage, Norm):
        return _normalize(stage, signal)
    if isinstance(stage, Uncovered):
        return _Step(stage, None, stage.reason)
    if signal is None:
        return _Step(stage, None, gap)
    if isinstance(stage, Weighted):
        return _Step(stage, _apply_weights(stage, signal), "")
    if isinstance(stage, Activation):
        moment = gaussian_moments(stage.function, signal.second)
        even = sum(value.mean(dim=(2, 3), keepdim=True).square() for value in (moment.slope_mean, moment.slope_along))
        return _Step(stage, _Signal(moment.second, moment.mean, normed=signal.normed), "", moment.slope_second, even)
    if isinstance(stage, Dropout):
        return _Step(stage, replace(signal, second=signal.second / (1 - stage.p)), "")
    if isinstance(stage, Flatten):
        mean = None if signal.mean is None else signal.mean.flatten(1)[:, :, None, None]
        return _Step(stage, replace(signal, second=signal.second.mean(dim=(2, 3), keepdim=True), mean=mean), "")
    return _Step(stage, None, f"the std of a mean over positions ({stage.name}) depends on the correlation between positions")


def _apply_weights(stage: Weighted, signal: _Signal) -> _Signal:
    """Return q' = fan_in var(w) second + var(b), where `second` is averaged over the window and padding counts as 0."""
    taps = stage.window.kernel[0] * stage.window.kernel[1]
    average = torch.full((1, 1, *stage.window.kernel), 1 / taps, dtype=torch.float64)
    windowed = stage.window.slide(signal.second, average)
    return _Signal(stage.fan_in * stage.weight_variance * windowed + stage.bias_variance, source=(stage, signal))


def _normalize(norm: Norm, signal: _Signal | None) -> _Step:
    """Return the step through a norm. Its output has variance 1 for any input, but its effect on the gradient may be unknown."""
    if signal is None:
        return _Step(norm, _Signal(torch.ones(1, 1, *norm.size, dtype=torch.float64), normed=norm), "")
    dims = (0, 2, 3) if norm.across_batch else (2, 3)
    shared = _constant_share(norm, signal)
    if shared is None:
        if norm.channels == 1:
            second = signal.second / signal.second.mean(dim=dims, keepdim=True)
            return _Step(norm, _Signal(second, normed=norm), "")
        shared = torch.zeros_like(signal.second)
    constant = shared.mean(dim=dims, keepdim=True)
    variance = signal.second.mean(dim=dims, keepdim=True) - constant / norm.channels + norm.eps
    centred = signal.second - (2 * shared - constant) / norm.channels
    gain = 1 / variance
    if norm.channels == 1 and signal.source is not None:
        layer, before = signal.source
        if before.exact and before.mean is not None:
            gain = inverse_variance(norm, layer, before.mean)
    return _Step(norm, _Signal(centred.clamp(min=0) / variance, normed=norm), "", gain)


def _constant_share(norm: Norm, signal: _Signal) -> Tensor | None:
    """Return E[x(n, p) a] [N, 1, H, W], where a is the average of x over the images and positions of the norm's mean.

    With h the input of the weighted layer, this is fan_in var(w) times the mean, over the window and the kinds of channel, of h
    times the average of h at that tap of the window. None if the averages of h are unknown: behind an activation they are known
    only if h comes from a norm of the same kind, so that each channel covers all of N(0, 1) over the range of the mean.
    """
    if signal.source is None:
        return None
    layer, before = signal.source
    if before.mean is None or not (before.exact or _same_kind(before.normed, norm)):
        return None
    count, kinds = before.mean.shape[:2]
    averages = layer.window.tap_means(before.mean)
    if norm.across_batch:
        products = layer.window.slide(before.mean, averages.mean(dim=0, keepdim=True))
    else:
        images = before.mean.reshape(1, count * kinds, *before.mean.shape[2:])
        products = layer.window.slide(images, averages, groups=count).transpose(0, 1)
    return layer.fan_in * layer.weight_variance * products / averages[0].numel() + layer.bias_variance


def _same_kind(left: Norm | None, right: Norm) -> bool:
    return left is not None and left.across_batch == right.across_batch and (left.channels == 1) == (right.channels == 1)


def _backward(steps: Sequence[_Step]) -> list[tuple[Tensor | None, str]]:
    """Return for each step g at the output of its stage relative to the end of the chain, or None and the reason."""
    gradients: list[tuple[Tensor | None, str]] = []
    gradient: _Gradient | None = _Gradient(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    gap = ""
    for step in reversed(steps):
        gradients.append((None if gradient is None else gradient.g, gap))
        if gradient is not None:
            gradient = _backward_stage(step, gradient)
            gap = "" if gradient is not None else step.gap or f"{step.stage.name}: {UNKNOWN_GAIN}"
    return gradients[::-1]


def _backward_stage(step: _Step, behind: _Gradient) -> _Gradient | None:
    """Return the gradient at the input of a stage, given the one at its output (`behind`)."""
    stage, g = step.stage, behind.g
    if isinstance(stage, Weighted):
        return _Gradient(_backward_weights(stage, g))
    if isinstance(stage, Dropout):
        return replace(behind, g=g / (1 - stage.p))
    if isinstance(stage, Flatten):
        return _Gradient(g.expand(-1, -1, *stage.size))
    if isinstance(stage, GlobalPool):
        g = g.expand(-1, -1, *stage.size) / (stage.size[0] * stage.size[1]) ** 2
        return _Gradient(g, g.mean(dim=(2, 3), keepdim=True))
    if step.gain is None:
        return None
    if isinstance(stage, Norm) and not stage.across_batch:
        remaining = 1 - behind.even / g.mean(dim=(2, 3), keepdim=True) / stage.channels
        return _Gradient(g * remaining * step.gain)
    return _Gradient(g * step.gain, behind.even * step.even_gain)


def _backward_weights(stage: Weighted, g: Tensor) -> Tensor:
    """Return g = g' fan_out var(w): every input sums over all output channels and over the windows that contain it."""
    taps = stage.window.kernel[0] * stage.window.kernel[1]
    average = torch.full((1, 1, *stage.window.kernel), 1 / taps, dtype=torch.float64)
    with torch.enable_grad():
        x = torch.zeros(1, 1, *stage.size, dtype=torch.float64).expand(len(g), -1, -1, -1).clone().requires_grad_()
        y = stage.window.slide(x, average)
        (summed,) = torch.autograd.grad(y, x, g.expand_as(y))
    return stage.fan_out * stage.weight_variance * summed
