"""Weight initialisation: each choice returns `init(model, images, generator)`, which works in place.

Touched, by every choice but `pytorch`, which touches the last alone:
- weights of nn.Linear and nn.Conv1d/2d/3d (subclasses included): drawn as the choice says;
- their biases: 0;
- norms (modules whose class is called ...Norm, ...Norm2d and the like, torch's and ours): weight 1, bias 0;
- with `zero_gamma`, the last norm of each residual block (`train.parts.kinds.last_norms`): weight 0, so that the block begins as
  its shortcut (Goyal et al. 2017, section 5.1).
Not touched: everything else. Class tokens, positions, embeddings, layer scales, the packed projections of
nn.MultiheadAttention, transposed convolutions and running statistics keep what the model's construction gave them.

Weights are drawn in the order of `model.named_modules()`, from the given generator alone, on the CPU in float32: the same
model and generator give the same bits on every device.

fan_in = inputs that reach one output, fan_out = outputs that one input reaches. Linear [out, in]: in, out. Convolution
[out, in / groups, k, k]: (in / groups) k k, (out / groups) k k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from annotated_types import Interval
from torch import Generator, Tensor, nn

from train.errors import UsageError
from train.parts.contracts import Initializer
from train.parts.isolation import isolated
from train.parts.kinds import Layer, is_norm, last_norms

Positive = Annotated[float, Interval(gt=0)]
Distribution = Literal["normal", "uniform"]
Draw: TypeAlias = Callable[[Layer, Generator], Tensor]
RequestedStd: TypeAlias = Callable[[Layer], float]


@dataclass(frozen=True)
class LayerByLayer:
    """An initializer that fills each layer's weight by `draw`, with values of the standard deviation `requested_std(layer)`."""

    draw: Draw
    requested_std: RequestedStd
    zero_gamma: bool = False

    def check(self, model: nn.Module) -> None:
        _check_last_norms(model, self.zero_gamma)

    def __call__(self, model: nn.Module, images: Tensor, generator: Generator) -> None:  # noqa: ARG002
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Layer):
                    module.weight.copy_(self.draw(module, generator))
                    _fill(module, "bias", 0.0)
                elif is_norm(module):
                    _fill(module, "weight", 1.0)
                    _fill(module, "bias", 0.0)
        _zero_last_norms(model, self.zero_gamma)


@dataclass(frozen=True)
class _AsBuilt:
    """The initializer of `pytorch`."""

    zero_gamma: bool

    def check(self, model: nn.Module) -> None:
        _check_last_norms(model, self.zero_gamma)

    def __call__(self, model: nn.Module, images: Tensor, generator: Generator) -> None:  # noqa: ARG002
        _zero_last_norms(model, self.zero_gamma)


def _check_last_norms(model: nn.Module, zero_gamma: bool) -> None:
    """Raise UsageError for a model that has nothing to set to zero."""
    if zero_gamma and not scaled_last_norms(model):
        raise UsageError(
            "init.zero_gamma=true: the model has no residual block that ends with a norm that has a scale. "
            "Use model=resnet with a norm and norm.scale=true, or init.zero_gamma=false."
        )


@torch.no_grad()
def _zero_last_norms(model: nn.Module, zero_gamma: bool) -> None:
    for gamma in scaled_last_norms(model) if zero_gamma else ():
        gamma.zero_()


def gaussian(std: Positive = 0.01, zero_gamma: bool = False) -> Initializer:
    """Draw weights from N(0, std^2), whatever the layer's size. Deep nets lose the signal unless `std` fits their width."""
    return _independent("normal", lambda layer: std, zero_gamma)  # noqa: ARG005


def xavier(zero_gamma: bool = False) -> Initializer:
    """Draw weights from N(0, 1 / fan_in), which keeps the variance of the signal through linear layers.

    This is the lecture's Xavier; the paper's is `glorot`."""
    return _independent("normal", lambda layer: math.sqrt(1 / fans(layer)[0]), zero_gamma)


def glorot(distribution: Distribution = "uniform", gain: Positive = 1.0, zero_gamma: bool = False) -> Initializer:
    """Draw weights of variance gain^2 * 2 / (fan_in + fan_out): signal and gradient in balance (Glorot & Bengio 2010)."""
    return _independent(distribution, lambda layer: gain * math.sqrt(2 / sum(fans(layer))), zero_gamma)


def kaiming(
    mode: Literal["fan_in", "fan_out"] = "fan_in", distribution: Distribution = "normal", zero_gamma: bool = False
) -> Initializer:
    """Draw weights of variance 2 / fan, which makes up for the half that ReLU cuts off (He et al. 2015).

    `fan_in` keeps the second moment of the signal forward, `fan_out` that of the gradient backward.
    """
    index = ("fan_in", "fan_out").index(mode)
    return _independent(distribution, lambda layer: math.sqrt(2 / fans(layer)[index]), zero_gamma)


def orthogonal(gain: Positive = 1.0, zero_gamma: bool = False) -> LayerByLayer:
    """Draw `gain` times a random (semi-)orthogonal matrix, which keeps lengths (Saxe, McClelland & Ganguli 2014).

    A convolution's weight is taken as a matrix [out, in k k]; with groups, each group's [out / groups, (in / groups) k k].
    """

    def nominal(layer: Layer) -> float:
        rows = layer.weight.shape[0] // (1 if isinstance(layer, nn.Linear) else layer.groups)
        return gain / math.sqrt(max(rows, fans(layer)[0]))

    return LayerByLayer(lambda layer, generator: _draw_orthogonal(layer, gain, generator), nominal, zero_gamma)


def dirac(zero_gamma: bool = False) -> Initializer:
    """Let the first filters of a convolution pass its inputs on, and draw all else as `kaiming` does.

    The first min(in, out) filters, of each group, are torch's `nn.init.dirac_`: 1 in the middle of a channel of their own, and 0
    elsewhere (Zagoruyko & Komodakis 2017; in this partial form Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU").
    """

    def requested(layer: Layer) -> float:
        fan_in = fans(layer)[0]
        passing = 0.0 if isinstance(layer, nn.Linear) else min(layer.weight.shape[1] * layer.groups / layer.weight.shape[0], 1.0)
        return math.sqrt((passing + (1 - passing) * 2) / fan_in)

    return LayerByLayer(_draw_dirac, requested, zero_gamma)


def lsuv(zero_gamma: bool = False) -> Initializer:
    """Layer-sequential unit variance (Mishkin & Matas 2016): `orthogonal`, then each layer's weight divided by the standard
    deviation of its outputs on `images`, taken over all images, channels and positions, in the order in which layers run.

    As biases are zero, outputs are proportional to the weight: one division is exact, where the paper iterates to a tolerance.
    One forward pass serves all layers, because each hands on the output it has after the division. In this pass norms are
    in training mode (batch norm uses the statistics of `images`) and everything else in evaluation mode, so that nothing
    is dropped and nothing is drawn; modes and buffers, running statistics among them, are put back. A layer that runs more
    than once is scaled the first time. One that does not run, or whose outputs have no finite positive standard deviation, stays
    orthogonal.
    """
    return _UnitVariance(orthogonal(zero_gamma=zero_gamma))


@dataclass(frozen=True)
class _UnitVariance:
    """The initializer of `lsuv`."""

    start: LayerByLayer

    def check(self, model: nn.Module) -> None:
        self.start.check(model)

    def __call__(self, model: nn.Module, images: Tensor, generator: Generator) -> None:
        self.start(model, images, generator)
        scaled: set[nn.Module] = set()

        def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
            std = output.float().std(correction=0)
            if layer in scaled or not (std > 0 and std.isfinite()):
                return output
            scaled.add(layer)
            layer.get_parameter("weight").div_(std)
            return output / std

        with torch.no_grad(), isolated(model, training=is_norm), _hooked(model, scale):
            model(images.to(next(model.parameters()).device))


def pytorch(zero_gamma: bool = False) -> Initializer:
    """Keep torch's defaults: the model stays as it was constructed, with what the global generator gave it then.

    Weights of linear layers and convolutions are uniform with variance 1 / (3 fan_in) (`kaiming_uniform_` with a = sqrt 5,
    which is neither Xavier nor He), biases uniform in +-1 / sqrt(fan_in). Only `zero_gamma` changes something.
    """
    return _AsBuilt(zero_gamma)


def fans(layer: Layer) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a linear layer or convolution."""
    positions = math.prod(layer.weight.shape[2:])
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return layer.weight.shape[1] * positions, layer.weight.shape[0] // groups * positions


def scaled_last_norms(model: nn.Module) -> list[Tensor]:
    """Return the gammas of the last norms of the residual blocks."""
    gammas = (getattr(norm, "weight", None) for norm in last_norms(model))
    return [gamma for gamma in gammas if isinstance(gamma, nn.Parameter)]


def _independent(distribution: Distribution, std: RequestedStd, zero_gamma: bool) -> LayerByLayer:
    return LayerByLayer(lambda layer, generator: _draw(layer, distribution, std(layer), generator), std, zero_gamma)


def _fill(module: nn.Module, name: str, value: float) -> None:
    parameter = getattr(module, name, None)
    if isinstance(parameter, nn.Parameter):
        parameter.fill_(value)


def _draw(layer: Layer, distribution: Distribution, std: float, generator: Generator) -> Tensor:
    """Draw values of mean 0 and standard deviation `std`, in the shape of the layer's weight."""
    weight = torch.empty(layer.weight.shape)
    if distribution == "normal":
        return weight.normal_(0, std, generator=generator)
    bound = math.sqrt(3) * std
    return weight.uniform_(-bound, bound, generator=generator)


def _draw_orthogonal(layer: Layer, gain: float, generator: Generator) -> Tensor:
    weight = torch.empty(layer.weight.shape)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    for block in weight.chunk(groups):
        nn.init.orthogonal_(block, gain, generator=generator)
    return weight


def _draw_dirac(layer: Layer, generator: Generator) -> Tensor:
    weight = _draw(layer, "normal", math.sqrt(2 / fans(layer)[0]), generator)
    if not isinstance(layer, nn.Linear):
        for block in weight.chunk(layer.groups):
            nn.init.dirac_(block[: block.shape[1]])
    return weight


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, Layer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
