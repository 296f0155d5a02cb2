"""Images of Gaussian noise, for studies of the signal in a network and for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval, Len

from train.data.contracts import Arrays, Dataset, Splits
from train.parts.contracts import Shape
from train.rng import generator

Count = Annotated[int, Interval(ge=1)]


@dataclass
class Noise:
    """Independent N(0, 1) float32 values, and labels that have nothing to do with them."""

    shape: Shape
    class_names: tuple[str, ...]
    train_size: int
    test_size: int
    seed: int

    def load(self) -> Splits:
        """Draw both splits; the same values for the same settings."""
        return Splits(train=self._draw(0, self.train_size), test=self._draw(1, self.test_size), drawn=True)

    def _draw(self, split: int, count: int) -> Arrays:
        randomness = generator(self.seed, "noise", split)
        images = torch.randn(count, *self.shape, generator=randomness)
        return Arrays(images, torch.randint(len(self.class_names), (count,), generator=randomness))


def noise(
    shape: Annotated[Sequence[Count], Len(3, 3)] = (3, 32, 32),
    classes: Annotated[int, Interval(ge=2)] = 10,
    train_size: Count = 2048,
    test_size: Count = 512,
    seed: int = 0,
) -> Dataset:
    """Return a data set of Gaussian images of `shape` (C, H, W), each value N(0, 1), with random labels of `classes` classes.

    `seed` is of the data alone: runs that differ in their own seed see the same data.
    """
    channels, height, width = shape
    return Noise((channels, height, width), tuple(map(str, range(classes))), train_size, test_size, seed)
