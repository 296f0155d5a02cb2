"""The contract of each kind of part. Parts know these types and never each other.

Shapes: N images of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""

NormFactory: TypeAlias = Callable[[int], nn.Module]
"""norm(channels) -> a module for inputs [N, C], [N, C, L] or [N, C, H, W]. `norm=none` is None instead of a factory.

One with a method `finish(model)` gets the model before its init, to change it in place."""

ActivationFactory: TypeAlias = Callable[[], nn.Module]

Initializer: TypeAlias = Callable[[nn.Module, Tensor, torch.Generator], None]
"""init(model, images [N, C, H, W], generator): sets the parameters in place; `images` serve data-dependent inits.

One with a method `check(model)` is asked before any data is loaded, on the meta device: UsageError where it does not fit."""

Draws: TypeAlias = Mapping[str, Tensor]
"""What an augmentation drew for a batch: CPU tensors whose first dimension is N."""


@dataclass(frozen=True)
class Mixture:
    """What is in the images of a batch: image n is `share[n]` of itself, and the rest of image `partner[n]` of the same batch.

    `partner`: int64 [N]; `share`: float32 [N].
    """

    partner: Tensor
    share: Tensor


ModelFactory: TypeAlias = Callable[..., nn.Module]
"""model(*, input_shape: Shape, classes: int, norm: NormFactory | None, activation: ActivationFactory, dropout: float,
**settings) -> nn.Module from images [N, C, H, W] to logits [N, K]. With a parameter `stochastic_depth`, it gets that too."""


@runtime_checkable
class OwnInit(Protocol):
    """A model whose initial weights are not the init's alone."""

    def finish_init(self, images: Tensor) -> None:
        """Set in place what the architecture defines. Called after the init, with the images [N, C, H, W] that it got."""
        ...

    def init_factor(self, layer: nn.Module) -> float | None:
        """Return the factor on the standard deviation that the init gives a layer; None where the init has no say."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A model that changes in the course of the training."""

    def begin_epoch(self, epoch: int) -> bool:
        """Become what the model is in this epoch, whatever it was. Return whether a train step now does something else."""
        ...


class Average(Protocol):
    """A second model that follows the trained one. It is what is scored, kept and stored; the trained one is scored beside it."""

    module: nn.Module

    def update_parameters(self, model: nn.Module) -> None:
        """Follow an update of `model`, on the device alone: it waits for nothing, and does the same after each update."""
        ...


Averaging: TypeAlias = Callable[[nn.Module], Average]
"""averaging(model) -> an average of its weights, which begins at the initial ones, on the model's device."""

SecondPass: TypeAlias = Callable[[nn.Module, Callable[[], None]], None]
"""second_pass(model, again): called when the parameters hold the gradients of a batch's loss, which may be scaled by a constant.

It puts those that the optimizer is to use in their place. `again()` adds the gradients of the same batch at the weights as they
are then. It works on the device alone; parameters and buffers are afterwards as they were before."""

Schedule: TypeAlias = Callable[[int, int], float]
"""schedule(step, total_steps) -> the factor on the optimizer's learning rate; step counts from 0."""


class Op(Protocol):
    """An augmentation. Images are uint8 [N, C, H, W], or float32 in [0, 1]; an op that needs floats converts by
    `train.parts.augment.as_float`, and one that only moves pixels keeps the type it was given."""

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw the random numbers for `count` images of `shape`, from `generator` (CPU) alone."""
        ...

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the augmented images, on the device of `images`; a pure function."""
        ...

    def evaluate(self, images: Tensor) -> Tensor:
        """Return validation or test images as the op changes them; most ops return them unchanged."""
        ...

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one image after the op, the same in training and in evaluation."""
        ...


@dataclass(frozen=True)
class Visit:
    """Which images a batch holds, and in which `epoch`: `indices`, int64 [N] on the CPU, are their numbers in a split of `size`.

    `seed`: of what is drawn once for an image, whatever the epoch.
    """

    epoch: int
    indices: Tensor
    size: int
    seed: int


@runtime_checkable
class PerImage(Protocol):
    """An op whose draws depend on the epoch and on which images are in the batch. In training it is asked instead of `draw`."""

    def draw_for(self, generator: torch.Generator, visit: Visit, shape: Shape) -> Draws:
        """Draw the random numbers for the images of `visit`, of `shape`, from `generator` (CPU) and the visit alone."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """An op that mixes the images of a batch. The loss and the number of right answers are then mixed as the images are."""

    def mixture(self, draws: Draws) -> Mixture | None:
        """Return what `apply` makes of a batch; None if it mixes nothing."""
        ...


@runtime_checkable
class Framing(Protocol):
    """An op that cuts one region out of an image of any size and brings it to a fixed size. Readers of image files
    use it while decoding, so that each image is resized once; all regions are (top, left, height, width) in pixels of the
    source."""

    def train_region(self, generator: torch.Generator, height: int, width: int) -> tuple[float, float, float, float]: ...

    def test_region(self, height: int, width: int) -> tuple[float, float, float, float]: ...

    def size(self) -> tuple[int, int]:
        """Return (height, width) of the result."""
        ...
