"""Whether a run learned anything: a test of its scores on a split against guessing. Simulated in docs/statistics.md.

Guessing is the best constant prediction: the shares of the classes in the split, whose loss is their entropy (ln C for C equal
classes), and whose accuracy is the largest of them. A run trained if its scores are better than guessing's, by either of two
tests at half of `ALPHA` each:

- accuracy: the number of correct images, against a binomial distribution at the largest share;
- loss: n (entropy - loss) >= ln(2 / ALPHA). Where predictions have nothing to do with the labels, the likelihood ratio of the
  predictions and of guessing has the mean 1, so that it exceeds 2 / ALPHA with probability ALPHA / 2 at most (Markov), for any
  network and without knowing the spread of the losses. A constant prediction never does.

Either alone errs: an overconfident network has a large loss at a high accuracy, and where one class is frequent, a network may
have learned much without predicting another.

Both tests take images as independent. The outputs of an untrained network, however, depend on the image, and all images of a
class give similar ones, so its scores may be off from guessing's by luck. A run that found its training loss never below
`MARGIN` of ln C must therefore pass by a margin: a loss below that share of guessing's, or twice its accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log

from scipy import special

ALPHA = 0.001
MARGIN = 0.98
"""As in `train.explain.diagnosis.CHANCE`."""


@dataclass(frozen=True)
class Guessing:
    """The best constant prediction: its `loss`, and its `accuracy`, the share of the largest class."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """The scores of a run on a split of `images`; NaN for one that is not known."""

    accuracy: float
    loss: float
    images: int


def guessing(counts: Sequence[float]) -> Guessing | None:
    """Return what guessing gives where the classes have these numbers of images; None without two classes that have some."""
    total = sum(counts)
    shares = [count / total for count in counts if count > 0] if total > 0 else []
    if len(shares) < 2:
        return None
    return Guessing(-sum(share * log(share) for share in shares), max(shares))


def is_trained(scores: Scores, guess: Guessing, *, at_chance: bool = False, alpha: float = ALPHA) -> bool:
    """Return whether `scores` are better than those of guessing. `at_chance`: the run found that it did not learn."""
    passed = more_correct(scores, guess, alpha / 2) or lower_loss(scores, guess, alpha / 2)
    return passed and (not at_chance or beyond_luck(scores, guess))


def more_correct(scores: Scores, guess: Guessing, alpha: float) -> bool:
    """Return whether P(so many correct images or more) by guessing is at most `alpha`."""
    if not (isfinite(scores.accuracy) and scores.images > 0):
        return False
    correct = round(scores.accuracy * scores.images)
    return correct > 0 and float(special.bdtrc(correct - 1, scores.images, guess.accuracy)) <= alpha


def lower_loss(scores: Scores, guess: Guessing, alpha: float) -> bool:
    """Return whether the loss is below that of guessing by more than `alpha` allows. NaN and infinity are not."""
    return scores.images > 0 and scores.images * (guess.loss - scores.loss) >= log(1 / alpha)


def beyond_luck(scores: Scores, guess: Guessing) -> bool:
    """Return whether the scores are too good for an untrained network."""
    needed = min(2 * guess.accuracy, (1 + guess.accuracy) / 2)
    return scores.loss < MARGIN * guess.loss or scores.accuracy >= needed
