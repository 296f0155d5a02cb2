"""Take a validation split out of the training split, keep a share of the rest to train on, and check what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from train.data.contracts import Source, Splits
from train.errors import UsageError
from train.rng import generator

TRAINING_SUBSET = 1
"""The index of its draws, so that they are not those of the validation split."""


def split_validation(splits: Splits, fraction: float, seed: int) -> Splits:
    """Return `splits` with `val` taken out of `train`, class by class, drawn by `seed`.

    A class of n images gives min(floor(`fraction` n + 1/2), n - 1), so that each keeps at least one for training. Both parts keep
    the order of `train`. Fraction 0, or a data set that brings a validation split of its own: `splits` as they are.
    UsageError when the fraction is outside [0, 1) or takes no image at all.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"data.val_fraction={fraction} must be at least 0 and below 1.")
    if fraction == 0 or splits.val is not None:
        return splits
    taken = _draw(splits.train.labels, fraction, seed)
    if not taken.any():
        raise UsageError(
            f"data.val_fraction={fraction} of {len(splits.train)} training images leaves no image of any class for validation. "
            "Raise it, or use data.val_fraction=0 for no validation split."
        )
    train, val = (splits.train.take(torch.nonzero(chosen).flatten()) for chosen in (~taken, taken))
    return replace(splits, train=train, val=val)


def keep_fraction(splits: Splits, fraction: float, seed: int) -> Splits:
    """Return `splits` with a share of the images of `train`, class by class, drawn by `seed`; the other splits are as they were.

    A class of n images keeps max(1, floor(`fraction` n + 1/2)), the first ones of one random order for all fractions: those of a
    smaller fraction are among those of a larger one. They keep the order of `train`. UsageError outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"data.train_fraction={fraction} must be above 0 and at most 1.")
    if fraction == 1:
        return splits
    labels, randomness = splits.train.labels, generator(seed, "split", TRAINING_SUBSET)
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        count = max(1, math.floor(fraction * len(members) + 0.5))
        kept[members[torch.randperm(len(members), generator=randomness)[:count]]] = True
    return replace(splits, train=splits.train.take(torch.nonzero(kept).flatten()))


def refuse_single_label(train: Source, class_names: Sequence[str]) -> None:
    """Raise UsageError when all training images have one label: whatever is trained on them is right."""
    labels = train.labels.unique().tolist()
    if len(labels) == 1:
        raise UsageError(
            f"All {len(train)} training images are of the class '{class_names[labels[0]]}', number {labels[0]} of "
            f"{len(class_names)}. There is nothing to learn: training needs images of two classes at least."
        )


def _draw(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Draw the images of the validation split: bool [N]."""
    randomness = generator(seed, "split")
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        count = min(math.floor(fraction * len(members) + 0.5), len(members) - 1)
        taken[members[torch.randperm(len(members), generator=randomness)[:count]]] = True
    return taken
