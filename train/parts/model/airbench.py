"""The small net of Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", with its whitened stem.

A stem of 2x2 convolutions, whose filters are the principal axes of the images' 2x2 patches and their negatives, scaled so that
their outputs have variance 1; three stages of `width`, 4 `width` and 4 `width` channels, each a convolution, a maximum over 2x2
pixels and a second convolution; the maximum over all positions, a linear head, and logits times a constant.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from train.errors import ShapeError
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.model.layers import GlobalMaxPool, HalvingMaxPool, Scale, chain, conv3x3, conv_unit, drop, norm_act

KERNEL = 2
WIDENING = (1, 4, 4)
"""The channels of each stage as multiples of the width."""
EPS = 5e-4
"""Added to the variance along each axis."""


def airbench(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory,
    dropout: float,
    width: Annotated[int, Interval(ge=1)] = 64,
    whiten: bool = True,
    bias_epochs: Annotated[int, Ge(0)] | None = 3,
    logit_scale: Annotated[float, Interval(gt=0)] = 0.1111,
) -> nn.Module:
    """Return the net. Its head has a bias, which the original lacks.

    whiten: the init sets the stem's filters by the first training batch, and they do not train; False: they are drawn and train
    as others. bias_epochs: the epochs for which the biases of a whitened stem train; None: all.
    Names: `stem.conv`, `stage1.conv1`, `stage1.pool`, `stage1.norm1`, ..., `head`, `scale`.
    ShapeError: images of less than 9 pixels, which the stem leaves too small to be halved three times.
    """
    smallest = 2 ** len(WIDENING) + KERNEL - 1
    if min(input_shape[1:]) < smallest:
        size = f"{input_shape[1]}x{input_shape[2]}"
        raise ShapeError(f"model=airbench needs {smallest}x{smallest} pixels at least, not {size}. Use model=resnet.")
    channels = 2 * input_shape[0] * KERNEL**2
    body: dict[str, nn.Module] = {
        "stem": chain({"conv": nn.Conv2d(input_shape[0], channels, KERNEL, bias=True), "act": activation()})
    }
    for stage, widening in enumerate(WIDENING, 1):
        outputs = width * widening
        first = {"conv1": conv3x3(channels, outputs, norm), "pool": HalvingMaxPool()} | norm_act(outputs, norm, activation, 1)
        body[f"stage{stage}"] = chain(first | conv_unit(outputs, outputs, norm, activation, 2))
        channels = outputs
    body |= {"pool": GlobalMaxPool(), **drop(dropout), "head": nn.Linear(channels, classes), "scale": Scale(logit_scale)}
    return WhitenedNet(body, bias_epochs) if whiten else chain(body)


class WhitenedNet(nn.Sequential):
    """The net of `airbench` with a whitened stem (`OwnInit`), whose biases stop to train (`Staged`)."""

    def __init__(self, parts: dict[str, nn.Module], bias_epochs: int | None) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.bias_epochs = bias_epochs
        self._whitened.weight.requires_grad_(False)

    @property
    def _whitened(self) -> nn.Conv2d:
        convolution = self.get_submodule("stem.conv")
        assert isinstance(convolution, nn.Conv2d)
        return convolution

    @torch.no_grad()
    def finish_init(self, images: Tensor) -> None:
        """Set the filters of the stem to those that whiten the patches of `images`."""
        filters = whitening_filters(images)
        self._whitened.weight.copy_(torch.cat((filters, -filters)))

    def init_factor(self, layer: nn.Module) -> float | None:
        """Return 1: the init draws all layers but the stem."""
        return None if layer is self._whitened else 1.0

    def begin_epoch(self, epoch: int) -> bool:
        """Let the biases of the stem train in the first epochs alone. Return whether that changed."""
        bias = self._whitened.bias
        assert bias is not None
        before, trains = bias.requires_grad, self.bias_epochs is None or epoch < self.bias_epochs
        bias.requires_grad_(trains)
        return before != trains


def whitening_filters(images: Tensor) -> Tensor:
    """Return float32 [4 C, C, 2, 2]: the principal axes of the 2x2 patches of `images` [N, C, H, W], the widest first, each
    divided by the root of its second moment plus `EPS`."""
    patches = F.unfold(images.double(), KERNEL).transpose(1, 2).flatten(0, 1)
    moments, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (axes / (moments.clamp(min=0) + EPS).sqrt()).T.flip(0)
    return filters.reshape(-1, images.shape[1], KERNEL, KERNEL).float()
