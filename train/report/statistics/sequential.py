"""Planned looks at a growing sweep: the level of each look, and the decision of each contrast by its interval at that level.

The looks of one contrast share its error rate by the spending function of O'Brien-Fleming type (Lan & DeMets 1983, "Discrete
sequential boundaries for clinical trials", Biometrika 70), half of it in either direction. Whatever the number of looks, all
intervals of a contrast contain its true difference together with probability 1 - alpha (repeated confidence intervals: Jennison &
Turnbull 1989, "Interim analyses: the repeated confidence interval approach", JRSS B 51). So a contrast may stop at any look, for
whatever reason, and the interval of that look holds. The contrasts of a sweep share alpha by Sidak's inequality.

The boundaries are those of normal values of known spread; an interval uses the quantile of Student's t with the same level (the
"significance level approach" of Jennison & Turnbull 2000, "Group sequential methods", section 3.8). docs/statistics.md has
simulations of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, copysign, expm1, inf, log1p, nan, pi, sqrt
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from train.report.contracts import Sample
from train.report.statistics.contrasts import contrast, moments, two_sided_quantile
from train.report.statistics.rates import equal_rates_p, training
from train.report.statistics.trimming import trimmed_effects

ALPHA = 0.05
LookVerdict: TypeAlias = Literal["different", "equivalent", "not_comparable", "open"]
_POINTS, _WIDTHS = np.polynomial.legendre.leggauss(16)
"""Gauss's quadrature between -1 and 1, for a panel that is some standard deviations wide."""
_REACH = 9.0
"""Standard deviations to which a density is integrated: beyond lies 1e-19."""

_Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """What a look says of an arm against the baseline: `difference` of the means, and the ends `low` and `high` of its interval.

    `level`: of this look and contrast, two-sided; the interval has the confidence 1 - level. Where the runs determine no
    interval, it is infinite, and the difference is NaN if a side has no value.

    `verdict`: `different`: the interval excludes 0; `equivalent`: it lies within the margin; `not_comparable`: runs on either
    side diverged, or not equally often learned anything, which more seeds cannot undo; `open`: none of these, or runs failed or
    are missing, or the verdict depends on which runs learned nothing (`train.report.statistics.trimming`).
    """

    arm: str
    verdict: LookVerdict
    low: float
    high: float
    level: float
    difference: float


def decide(
    baseline: Sample,
    treatments: Sequence[Sample],
    looks_planned: Sequence[int],
    look: int,
    margin: float | None,
    contrasts: int,
    alpha: float = ALPHA,
) -> list[Decision]:
    """Return the decision of every treatment at a look, in the given order.

    The samples hold the runs of this look, on both sides; `looks_planned`: the seeds per arm at every look; `look`: its number,
    counted from 1; `margin`: in units of the metric, None if nothing is equivalent; `contrasts`: how many the plan has, with
    those that were decided earlier. ValueError for a look that is not planned.
    """
    level = look_level(looks_planned, look, contrasts, alpha)
    return [_decision(baseline, treatment, level, margin) for treatment in treatments]


def _decision(baseline: Sample, treatment: Sample, level: float, margin: float | None) -> Decision:
    difference, low, high = _interval(baseline, treatment, level)
    return Decision(treatment.arm, _verdict(baseline, treatment, low, high, level, margin), low, high, level, difference)


def _interval(baseline: Sample, treatment: Sample, level: float) -> tuple[float, float, float]:
    """Return the difference of the means and the ends of Welch's interval."""
    if not (baseline.values and treatment.values):
        return nan, -inf, inf
    found = contrast([-1.0, 1.0], [moments(baseline.values), moments(treatment.values)])
    if min(len(baseline.values), len(treatment.values)) < 2 or not found.has_error:
        return found.estimate, -inf, inf
    half = two_sided_quantile(level, found.df) * found.standard_error
    return found.estimate, found.estimate - half, found.estimate + half


def _verdict(baseline: Sample, treatment: Sample, low: float, high: float, level: float, margin: float | None) -> LookVerdict:
    sides = (baseline, treatment)
    if any(side.failed or side.missing for side in sides):
        return "open"
    nothing_trained = any(side.untrained for side in sides) and not any(side.values for side in sides)
    if nothing_trained or any(side.diverged for side in sides):
        return "not_comparable"
    if equal_rates_p([(training([baseline]), training([treatment]))]) < ALPHA:
        return "not_comparable"
    effects = trimmed_effects(treatment, baseline, 1, 1 - level)
    ends = [(low, high), *((effect.low, effect.high) for effect in effects)]
    found = {_by(-inf if a is None else a, inf if b is None else b, margin) for a, b in ends}
    return found.pop()[0] if len(found) == 1 else "open"  # it depends on which runs did not train: more seeds may tell


def _by(low: float, high: float, margin: float | None) -> tuple[LookVerdict, float]:
    """Return the verdict that follows from an interval, and the sign of the difference."""
    if margin is not None and max(-low, high) <= margin:
        return "equivalent", 0
    return ("different", copysign(1, low)) if low > 0 or high < 0 else ("open", 0)


def look_level(looks_planned: Sequence[int], look: int, contrasts: int, alpha: float = ALPHA) -> float:
    """Return the two-sided level of one of `contrasts` contrasts at a look (counted from 1). ValueError if it is not planned.

    With k > 1 looks and at most n seeds, a contrast spends sqrt(k) / 2n less than its share. For the t statistics of successive
    looks are less alike than the means of normal values: with all of the spread on one side, they err by about as much more, in
    simulations of k from 2 to 23 and n from 8 to 50.
    """
    if not 1 <= look <= len(looks_planned):
        raise ValueError(f"look {look} is none of the {len(looks_planned)} planned ones")
    share = -expm1(log1p(-alpha) / contrasts)
    if len(looks_planned) > 1:
        share *= 1 - sqrt(len(looks_planned)) / (2 * looks_planned[-1])
    return look_levels(share, [seeds / looks_planned[-1] for seeds in looks_planned])[look - 1]


def look_levels(alpha: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """Return the nominal two-sided level of each look.

    `fractions`: the share of the information at each look, such as seeds / the largest number of seeds; they rise, to 1 at most.
    ValueError for others. A level may be 0, where the share is so small that its part of alpha is.
    """
    steps = [after - before for before, after in zip((0.0, *fractions), fractions, strict=False)]
    if not (0 < alpha < 1 and steps and min(steps) > 0 and fractions[-1] <= 1):
        raise ValueError(f"alpha {alpha} and the fractions {list(fractions)} should lie in (0, 1], and the fractions rise")
    return _look_levels(alpha, tuple(fractions))


def spent(alpha: float, fraction: float) -> float:
    """Return how much of alpha is spent up to a share of the information, by the function of O'Brien-Fleming type."""
    return float(4 * special.ndtr(special.ndtri(alpha / 4) / sqrt(fraction)))


@lru_cache(maxsize=256)
def _look_levels(alpha: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Integrate numerically (Armitage, McPherson & Rowe 1969, "Repeated significance tests on accumulating data", JRSS A 132).

    The sum of the values at share t is a Brownian motion B(t). Those paths go on that have crossed no boundary.
    """
    levels: list[float] = []
    nodes, weights = np.zeros(1), np.ones(1)  # all paths start at 0: `weights` is the density times the width of each node
    ends = zip((0.0, *fractions[:-1]), fractions, (*fractions[1:], 2.0), strict=True)
    for before, now, following in ends:
        step, next_step = sqrt(now - before), sqrt(following - now)
        boundary = _boundary(nodes, weights, step, spent(alpha, now) - (spent(alpha, before) if before else 0.0))
        levels.append(float(2 * special.ndtr(-boundary / sqrt(now))))
        new_nodes, widths = _panels(min(boundary, _REACH * sqrt(now)), min(step, next_step))
        weights = widths * (_normal_density((new_nodes[:, None] - nodes) / step) @ weights) / step
        nodes = new_nodes
    return tuple(levels)


def _boundary(nodes: _Values, weights: _Values, step: float, share: float) -> float:
    """Return the c with P(|B| > c after a step of this standard deviation) = share, over the paths that are left."""

    def excess(c: float) -> float:
        beyond = special.ndtr((nodes - c) / step) + special.ndtr((-c - nodes) / step)
        return float(weights @ beyond) - share

    if share <= 0:
        return inf
    return float(optimize.brentq(excess, 0.0, float(nodes[-1]) + 40 * step, xtol=1e-12))  # type: ignore[arg-type]


def _panels(limit: float, finest: float) -> tuple[_Values, _Values]:
    """Return nodes between -limit and limit and their widths, for functions that change over a distance of `finest`."""
    edges = np.linspace(-limit, limit, 1 + max(4, ceil(limit / finest)))
    middles, halves = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    return (middles[:, None] + halves[:, None] * _POINTS).ravel(), (halves[:, None] * _WIDTHS).ravel()


def _normal_density(z: _Values) -> _Values:
    return np.exp(-0.5 * z**2) / sqrt(2 * pi)
