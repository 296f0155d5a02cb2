"""Comparisons of all pairs of arms, with simultaneous intervals by the studentised range (Games & Howell 1976)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import overload

import numpy as np
from numpy.typing import NDArray

from train.report.contracts import Pairwise, Sample
from train.report.statistics.contrasts import POWER, SampleMoments, moments
from train.report.statistics.studentized import Floats, by_df, noncentrality, range_quantile, range_tails

NOTE = "no interval: the spread between seeds is unknown"


@dataclass(frozen=True)
class AllPairs(Sequence[Pairwise]):
    """The pairs of `arms` in the order of `combinations`, as arrays; NaN where a pair has no interval.

    A `Pairwise` is made when it is asked for: those of a thousand arms would take 300 MB.
    """

    arms: tuple[str, ...]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    difference: Floats
    standard_error: Floats
    df: Floats
    critical: Floats
    p_adjusted: Floats
    ratio: Floats
    """The minimum detectable effect over the standard error."""

    def __len__(self) -> int:
        return len(self.first)

    @overload
    def __getitem__(self, index: int) -> Pairwise: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pairwise, ...]: ...
    def __getitem__(self, index: int | slice) -> Pairwise | tuple[Pairwise, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        difference, error = float(self.difference[index]), float(self.standard_error[index])
        names = {"first": self.arms[self.first[index]], "second": self.arms[self.second[index]]}
        if np.isnan(self.p_adjusted[index]):
            return Pairwise(difference, note=NOTE, **names)
        half = float(self.critical[index]) * error
        return Pairwise(
            difference,
            low=difference - half,
            high=difference + half,
            p_adjusted=float(self.p_adjusted[index]),
            detectable=error * float(self.ratio[index]),
            standard_error=error,
            df=float(self.df[index]),
            **names,
        )

    @property
    def excluding_zero(self) -> int:
        """The number of intervals that exclude 0."""
        return int((np.abs(self.difference) > self.critical * self.standard_error).sum())

    def clearest(self, most: int) -> tuple[Pairwise, ...]:
        """Return at most `most` pairs: all in order if they fit, else those with the smallest adjusted p, which come first."""
        if len(self) <= most:
            return self[:]
        order = np.lexsort((-np.abs(self.difference), np.nan_to_num(self.p_adjusted, nan=2.0)))
        return tuple(self[int(place)] for place in order[:most])


def pairwise(samples: Sequence[Sample], *, confidence: float = 0.95) -> AllPairs:
    """Compare all pairs of arms, first minus second.

    Arms with one run and pairs without spread get only their difference.
    """
    kept = [sample for sample in samples if sample.values]
    groups = [moments(sample.values) for sample in kept]
    count = sum(group.n > 1 for group in groups)
    first, second = np.triu_indices(len(kept), 1)
    difference, error, df = _contrasts(groups, first, second)
    runs = np.array([group.n for group in groups])
    known = (error > 1e-12 * np.maximum(1.0, np.abs(difference))) & (np.minimum(runs[first], runs[second]) > 1)

    pairs = AllPairs(tuple(sample.arm for sample in kept), first, second, difference, error, df, *np.full((3, len(first)), nan))
    if known.any():
        _fill(pairs, known, count, confidence)
    return pairs


def _fill(pairs: AllPairs, known: NDArray[np.bool_], groups: int, confidence: float) -> None:
    """Fill in what the pairs that are `known` have by the studentised range of so many groups."""
    df, statistics = pairs.df[known], np.abs(pairs.difference[known]) / pairs.standard_error[known] * sqrt(2)

    def critical(value: float) -> float:
        return range_quantile(confidence, groups, value) / sqrt(2)

    pairs.critical[known] = by_df(critical, df)
    pairs.p_adjusted[known] = range_tails(statistics, groups, df)
    pairs.ratio[known] = by_df(lambda value: noncentrality(value, critical(value), POWER), df)


def _contrasts(
    groups: Sequence[SampleMoments], first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """Return the differences, their standard errors and Welch's degrees of freedom, as `contrasts.contrast` does for one pair."""
    means = np.array([group.mean for group in groups])
    variances = np.array([group.mean_variance for group in groups])
    own_df = np.array([max(group.n - 1, 1) for group in groups])
    total = variances[first] + variances[second]
    parts = (variances**2 / own_df)[first] + (variances**2 / own_df)[second]
    df = np.divide(total**2, parts, out=np.full(len(first), inf), where=parts > 0)
    return means[first] - means[second], np.sqrt(total), df
