"""Collect what a model answers on each image, and the pictures of its worst mistakes, during one pass over a split."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.data.contracts import Batch
from train.data.preprocess import Preprocess
from train.evaluation.scores import NO_ANSWERS, Answers, worst_mistakes
from train.run.device import Placement
from train.run.step import Measurement, eval_step


class Asker:
    """Evaluation steps that keep the answers. `most`: how many pictures are kept.

    `pictures`: place in the split -> float32 [C, H, W], the image as the model saw it, without the pre-processing.
    """

    def __init__(self, model: nn.Module, placement: Placement, preprocess: Preprocess, most: int) -> None:
        self.model, self._placement, self._most = model, placement, most
        self._std, self._mean = (torch.tensor(values)[:, None, None] for values in (preprocess.std, preprocess.mean))
        self.answers = NO_ANSWERS
        """The answers so far, in the order of the images."""
        self.pictures: dict[int, NDArray[np.float32]] = {}

    def evaluate(self, batch: Batch) -> Measurement:
        """Run an evaluation step. Expects evaluation mode."""
        return eval_step(self.model, self._placement, batch, partial(self._keep, batch.images))

    def _keep(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        first = len(self.answers.labels)
        predicted, probabilities = logits.argmax(dim=1), logits.softmax(dim=1)
        confidence, true = (probabilities.gather(1, chosen[:, None])[:, 0] for chosen in (predicted, labels))
        floats = (confidence.cpu().double().numpy(), true.cpu().double().numpy())
        self.answers = self.answers.followed_by(Answers(labels.cpu().numpy(), predicted.cpu().numpy(), *floats))
        worst = worst_mistakes(self.answers, self._most)
        self.pictures = {i: self.pictures[i] if i < first else self._picture(images[i - first]) for i in worst}

    def _picture(self, image: Tensor) -> NDArray[np.float32]:
        return (image.float().cpu() * self._std + self._mean).contiguous().numpy()
