"""The components of the variance between runs: what the seed of each role of randomness explains, and what none explains alone.

The model is that of random effects, y = mean + one effect for each role's seed + rest, all normal. The rest is what roles do
together: their interactions. Where two runs have the seed of one role in common at most, it is independent from run to run,
whatever interacts with what, so that nothing is assumed of interactions. Each role's sum of squares, adjusted for the other
roles, and the residual one are then independent multiples of chi-squared with known expectations.

The intervals of the shares are generalised ones (Weerahandi 1993, "Generalized confidence intervals", Journal of the American
Statistical Association 88): quantiles of the shares that the observed sums of squares give with draws of the chi-squared values,
at Bonferroni's level. The total is a sum of mean squares. Its lower limit is Satterthwaite's (1946, "An approximate distribution
of estimates of variance components", Biometrics Bulletin 2), its upper one that of Graybill & Wang (1980, "Confidence intervals
on nonnegative linear combinations of variances", Journal of the American Statistical Association 75): in simulations the other
limit of either misses in up to 8 % of studies, these in 2 %. docs/statistics.md has the coverage.

A run that differs from another in one role alone shows the spread of this role with everything else the same. It includes the
interactions of the role, so that these spreads do not add up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
ALPHA, DRAWS = 0.05, 10_000
FEW = 3
"""Pairs of runs that may have the same value by chance."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. Those of the shares of a spread hold jointly."""

    value: float
    low: float
    high: float


NONE = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RoleSpread:
    """What one role does. `share`: of the variance that its seed explains, whatever the other seeds; None if the runs do not
    tell. `alone`: the standard deviation with all other seeds the same, from `pairs` degrees of freedom."""

    role: str
    share: Estimate | None
    alone: Estimate | None
    pairs: int

    @property
    def saving(self) -> float | None:
        """The part of the standard error that fixing the role would save at most."""
        return None if self.share is None else 1 - math.sqrt(1 - self.share.high)


@dataclass(frozen=True)
class Spread:
    """The spread between runs of one arm.

    `total`: the standard deviation if all `roles` vary, from `runs` runs; `rest`: the share of the variance that no role explains
    alone; `note`: why there is no `total`, or no share.
    """

    runs: int
    mean: float
    total: Estimate | None
    roles: tuple[RoleSpread, ...]
    rest: Estimate | None
    note: str = ""


@dataclass(frozen=True)
class _Sums:
    """The sums of squares of the roles and the residual, their degrees of freedom, and how often a role's component is in its
    mean square."""

    squares: tuple[float, ...]
    df: tuple[int, ...]
    weights: tuple[float, ...]


def spread_of(values: Sequence[float], seeds: Sequence[Mapping[str, int]]) -> Spread:
    """Return where the spread of some runs comes from. `values`: of the metric; `seeds`: role -> its seed, of the same runs.

    Roles of which all runs have one seed are left out. One whose seed changes no value, `alone` being 0, has no share.
    """
    roles = [role for role in (seeds[0] if seeds else ()) if len({run.get(role) for run in seeds}) > 1]
    rows = [tuple(run[role] for role in roles) for run in seeds]
    alone = _alone(rows)
    square = [place for place in range(len(rows)) if place not in alone]
    groups = [_spread_alone(role, values, rows, alone, square) for role in range(len(roles))]
    drawn = [place for place, (squares, df) in enumerate(groups) if squares > 0 or df < FEW]
    kept = np.asarray([values[place] for place in square], dtype=np.float64)
    total, shares, note = _square(
        kept, [tuple(rows[place][role] for role in drawn) for place in square], [roles[r] for r in drawn]
    )
    share_of = dict(zip(drawn, shares, strict=False))
    if shares:
        share_of = dict.fromkeys(range(len(roles)), NONE) | share_of
    parts = tuple(
        RoleSpread(role, share_of.get(place), _chi_squared(*groups[place]), groups[place][1]) for place, role in enumerate(roles)
    )
    return Spread(len(square), float(kept.mean()) if square else math.nan, total, parts, shares[-1] if shares else None, note)


def _square(values: Array, rows: Sequence[tuple[int, ...]], roles: Sequence[str]) -> tuple[Estimate | None, list[Estimate], str]:
    """Return the standard deviation of runs in which all roles vary, the shares of roles and rest, and why there are none."""
    if note := _problem(roles, rows, values):
        return None, [], note
    sums = _sums(values, rows)
    if sums.df[-1] > 0 and min(sums.df) > 0:
        return *_components(sums), ""
    note = "each run has seeds of its own, so that what one role does cannot be told from what others do"
    if any(len(set(column)) < len(rows) for column in zip(*rows, strict=True)):
        return None, [], "too few runs have the seed of a role in common"
    return _chi_squared(float(((values - values.mean()) ** 2).sum()), len(values) - 1), [], note


def _alone(rows: Sequence[tuple[int, ...]]) -> dict[int, int]:
    """Return the place of a run -> that of its one role whose seed no other run has, of those that have exactly one."""
    counts = [Counter(column) for column in zip(*rows, strict=True)]
    unique = {place: [role for role, seed in enumerate(row) if counts[role][seed] == 1] for place, row in enumerate(rows)}
    return {place: found[0] for place, found in unique.items() if len(found) == 1 and len(counts) > 1}


def _spread_alone(
    role: int, values: Sequence[float], rows: Sequence[tuple[int, ...]], alone: Mapping[int, int], square: Sequence[int]
) -> tuple[float, int]:
    """Return the sum of squares, with its degrees of freedom, of runs that differ in one role alone."""
    groups: dict[tuple[int, ...], list[float]] = {}
    for place in square:
        groups.setdefault(rows[place][:role] + rows[place][role + 1 :], [values[place]])
    for place, varied in alone.items():
        rest = rows[place][:role] + rows[place][role + 1 :]
        if varied == role and rest in groups:
            groups[rest].append(values[place])
    squares = sum(float(np.var(group)) * len(group) for group in groups.values() if min(group) < max(group))
    return squares, sum(len(group) - 1 for group in groups.values())


def _problem(roles: Sequence[str], rows: Sequence[tuple[int, ...]], values: Array) -> str:
    """Return why the runs tell nothing of their spread; empty if they do."""
    if len(rows) > 1 and not roles:
        return "no role has two seeds that change anything"
    if len(rows) < 2:
        return "fewer than two runs in which all roles vary have a value"
    if float(values.min()) == float(values.max()):
        return "all runs have the same value"
    for place, row in enumerate(rows):
        for other in rows[:place]:
            common = [role for role, seed, same in zip(roles, row, other, strict=True) if seed == same]
            if len(common) > 1:
                return f"some runs have the seeds of {common[0]} and {common[1]} in common, which cannot be told apart then"
    return ""


def _sums(values: Array, rows: Sequence[tuple[int, ...]]) -> _Sums:
    """Return the sums of squares, each role adjusted for the others."""
    columns = [np.equal.outer(column, sorted(set(column))).astype(np.float64) for column in map(list, zip(*rows, strict=True))]
    ones = np.ones((len(values), 1))
    full, df_full = _projection([ones, *columns])
    squares, df, weights = list[float](), list[int](), list[float]()
    for place, own in enumerate(columns):
        rest, df_rest = _projection([ones, *columns[:place], *columns[place + 1 :]])
        adjusted = full - rest
        degrees = df_full - df_rest
        squares.append(float(values @ adjusted @ values))
        df.append(degrees)
        weights.append(float(np.trace(own.T @ adjusted @ own)) / max(1, degrees))
    residual = values - full @ values
    return _Sums((*squares, float(residual @ residual)), (*df, len(values) - df_full), tuple(weights))


def _projection(columns: Sequence[Array]) -> tuple[Array, int]:
    """Return the projection onto the space of some columns, and its dimension."""
    basis, sizes, _ = np.linalg.svd(np.hstack(columns), full_matrices=False)
    dimension = int((sizes > 1e-9 * sizes[0]).sum())
    kept = basis[:, :dimension]
    return kept @ kept.T, dimension


@lru_cache(maxsize=8)
def _chi_squared_draws(df: tuple[int, ...]) -> Array:
    """Return draws [roles and residual, DRAWS], the same for the same degrees of freedom."""
    generator = np.random.default_rng(0)
    return np.stack([generator.chisquare(degrees, DRAWS) for degrees in df])


def _components(sums: _Sums) -> tuple[Estimate, list[Estimate]]:
    """Return the standard deviation if everything varies, and the share of each role and the rest, within 0 and 1."""
    squares, weights = np.asarray(sums.squares), np.asarray(sums.weights)
    mean_squares = squares / sums.df
    variances = _variances(mean_squares, weights)
    drawn = _variances(squares[:, None] / _chi_squared_draws(sums.df), weights[:, None])
    miss = ALPHA / len(squares) / 2
    total, totals = float(variances.sum()), drawn.sum(axis=0)
    shares = [
        Estimate(*(min(1.0, max(0.0, float(part))) for part in (value / total, *np.quantile(draws / totals, [miss, 1 - miss]))))
        for value, draws in zip(variances, drawn, strict=True)
    ]
    parts = mean_squares * np.append(1 / weights, 1 - (1 / weights).sum())
    df = total**2 / float((parts**2 / sums.df).sum())
    low = total * df / float(stats.chi2.ppf(1 - ALPHA / 2, df))
    above = parts * (np.asarray(sums.df) / stats.chi2.ppf(ALPHA / 2, sums.df) - 1)
    return Estimate(math.sqrt(total), math.sqrt(low), math.sqrt(total + math.sqrt(float(above @ above)))), shares


def _variances(mean_squares: Array, weights: Array | Sequence[float]) -> Array:
    """Return the components by mean squares, which may be below 0; the residual is last."""
    rest = mean_squares[-1:]
    return np.concatenate([(mean_squares[:-1] - rest) / np.asarray(weights), rest])


def _chi_squared(squares: float, df: int) -> Estimate | None:
    """Return the standard deviation with its interval for normal values; None without degrees of freedom."""
    if df < 1:
        return None
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(tail, df))) for tail in (1 - ALPHA / 2, ALPHA / 2))
    return Estimate(math.sqrt(squares / df), low, high)
