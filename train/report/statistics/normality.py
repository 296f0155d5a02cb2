"""Whether the runs of arms look like samples of normal distributions, which the intervals take for granted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np
from scipy import stats

from train.report.contracts import Sample


def outliers(samples: Sequence[Sample], alpha: float) -> Iterator[tuple[Sample, int]]:
    """Yield the arms with a run far from the others, and its index.

    Grubbs' test (1969, Technometrics 11): a t test of the farthest run against the others of its arm. With Bonferroni's
    correction over all runs, it reports a run in a share `alpha` of sweeps of normal values.
    """
    total = sum(len(sample.values) for sample in samples)
    for sample in samples:
        values = np.asarray(sample.values)
        index = int(np.argmax(np.abs(values - values.mean())))
        others = np.delete(values, index)
        n, spread = others.size, float(others.std(ddof=1))
        if spread <= 1e-12 or n < 3:
            continue
        distance = abs(values[index] - others.mean()) / (spread * sqrt(1 + 1 / n))
        if 2 * stats.t.sf(distance, n - 1) * total < alpha:
            yield sample, index


def normality(samples: Sequence[Sample]) -> tuple[float, int] | None:
    """Return p of Shapiro & Wilk's test (1965, Biometrika 52), combined over the arms by Fisher's method, and the fewest runs.

    Arms with equal values are left out, None if none remains: accuracies are whole numbers of images, and p is 0 for three runs
    of which two are equal.
    """
    tested = [sample for sample in samples if len(set(sample.values)) == len(sample.values)]
    if not tested:
        return None
    p = [float(np.asarray(stats.shapiro(sample.values))[1]) for sample in tested]
    combined = float(np.asarray(stats.combine_pvalues(p, method="fisher"))[1])
    return combined, min(len(sample.values) for sample in tested)
