"""A net whose accuracy a test chooses, up to a small spread between seeds, and images that name their label."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from train.data.contracts import Arrays, Dataset, Splits

CLASSES = 10
SPREAD = 0.05


@dataclass
class Named:
    """Images of one row: the label as one of ten pixels, then a value between 0 and 1, which are evenly spaced."""

    shape: tuple[int, int, int] = (1, 1, CLASSES + 1)
    class_names: tuple[str, ...] = tuple(map(str, range(CLASSES)))

    def load(self) -> Splits:
        return Splits(train=self._draw(20), test=self._draw(400), drawn=True)

    def _draw(self, count: int) -> Arrays:
        labels, values = torch.arange(count) % CLASSES, torch.linspace(0, 1, count)
        images = torch.cat([nn.functional.one_hot(labels, CLASSES).float(), values[:, None]], 1)
        return Arrays(images[:, None, None], labels)


def named() -> Dataset:
    return Named()


class Skilled(nn.Module):
    """Names the label of a share of the images, about `skill`, and another one for the rest. The share depends on the seed.

    `how`: what happens in the first step, as long as there is no file `mended`: `fails`, `waits`; or `diverges`.
    """

    def __init__(self, skill: float, how: str) -> None:
        super().__init__()
        self.skill, self.how = skill, how
        self.head = nn.Linear(CLASSES + 1, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not images.is_meta:
            self.misbehave()
        labels, values = images.flatten(1).split([CLASSES, 1], 1)
        right = labels * 8 + self.head(images.flatten(1)) * 1e-3
        share = self.skill + SPREAD * self.head.weight.detach()[0, 0]
        return torch.where(values < share, right, right.roll(1, 1)) * (math.nan if self.how == "diverges" else 1.0)

    def misbehave(self) -> None:
        while self.how == "waits" and not Path("mended").exists():
            time.sleep(0.05)
        if self.how == "fails" and not Path("mended").exists():
            raise ValueError("this model fails on purpose")


def skilled(*, input_shape, classes, norm, activation, dropout, skill: float, how: str) -> nn.Module:  # noqa: ARG001
    return Skilled(skill, how)
