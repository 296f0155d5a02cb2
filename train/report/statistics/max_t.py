"""Distributions of the largest of several t statistics, by quadrature: exact, fast and bit-exact on every call.

Comparisons with one baseline: `scipy.stats.dunnett` integrates by quasi-Monte Carlo (errors near 1e-4, dependent on the
generator) and searches its interval over that noise, in 0.1 s. Here the correlations are products l_i l_j, so two nested
integrals suffice (Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a control", JASA 50):

    P(max |T_i| < c) = E_s E_z prod_i [Phi((c s + l_i z) / r_i) - Phi((-c s + l_i z) / r_i)],   r_i = sqrt(1 - l_i^2),

z standard normal, s^2 chi-square over its `df` degrees of freedom. The loading l_i is sqrt(n_i / (n_i + n_0)).

All pairs: the studentised range, as in `scipy.stats.studentized_range`, whose quantile takes 0.2 s for every new `df`:

    P(range / s < q) = E_s E_z k [Phi(z) - Phi(z - q s)]^(k - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

SPARSE, DENSE = 61, 121
MOST_LOADING = 0.995
"""Upper limit of the loadings: beyond it the integrand has a jump. Less correlation only makes the result more conservative."""


def largest_t_tail(statistic: float, loadings: Sequence[float], df: float) -> float:
    """Return P(max |T_i| >= statistic): the p value of one comparison, adjusted for all of them."""
    return _tail(abs(float(statistic)), _limited(loadings), float(df))


def largest_t_quantile(confidence: float, loadings: Sequence[float], df: float) -> float:
    """Return the c with P(max |T_i| < c) = confidence."""
    return _quantile(float(confidence), _limited(loadings), float(df))


def range_tail(statistic: float, groups: int, df: float) -> float:
    """Return P(range / s >= statistic) for `groups` standard normal numbers."""
    scale, scale_weight = _chi_nodes(float(df))
    normal, normal_weight = _normal_nodes(DENSE)
    between = special.ndtr(normal) - special.ndtr(normal - statistic * scale[:, None])  # (scales, normals)
    inside = groups * between ** (groups - 1)
    return float(np.clip(1 - scale_weight @ inside @ normal_weight, 0.0, 1.0))


@lru_cache(maxsize=4096)
def range_quantile(confidence: float, groups: int, df: float) -> float:
    """Return the q with P(range / s < q) = confidence."""
    pairs = groups * (groups - 1) / 2
    single = float(stats.t.isf((1 - confidence) / 2, df)) * np.sqrt(2)
    bonferroni = float(stats.t.isf((1 - confidence) / 2 / pairs, df)) * np.sqrt(2)  # Bonferroni's: never too small
    miss = 1 - confidence
    return float(optimize.brentq(lambda q: range_tail(q, groups, df) / miss - 1, single * 0.999, bonferroni * 1.001, xtol=1e-9))  # type: ignore[arg-type]


def _limited(loadings: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(min(float(loading), MOST_LOADING) for loading in loadings))


@lru_cache(maxsize=4096)
def _quantile(confidence: float, loadings: tuple[float, ...], df: float) -> float:
    single = float(stats.t.isf((1 - confidence) / 2, df))
    if len(loadings) == 1:
        return single
    independent = float(stats.t.isf((1 - confidence ** (1 / len(loadings))) / 2, df))  # Sidak's: never too small
    miss = 1 - confidence
    return float(optimize.brentq(lambda c: np.log(_tail(c, loadings, df) / miss), single * 0.999, independent * 1.02, xtol=1e-9))  # type: ignore[arg-type]


def _tail(statistic: float, loadings: tuple[float, ...], df: float) -> float:
    if len(loadings) == 1:
        return float(2 * stats.t.sf(statistic, df))
    scale, scale_weight = _chi_nodes(df)
    normal, normal_weight = _normal_nodes(SPARSE if max(loadings) < 0.9 else DENSE)
    loading = np.array(loadings)[:, None, None]
    rest = np.sqrt(1 - loading**2)
    reach = statistic * scale[:, None] / rest
    shift = loading * normal / rest
    inside = np.prod(special.ndtr(reach + shift) - special.ndtr(shift - reach), axis=0)  # (scales, normals)
    return float(np.clip(scale_weight @ (1 - inside) @ normal_weight, 0.0, 1.0))


@lru_cache
def _normal_nodes(count: int, reach: float = 7.5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of the trapezium rule.

    It converges exponentially for smooth integrands that vanish at both ends.
    """
    nodes = np.linspace(-reach, reach, count)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=256)
def _chi_nodes(df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of s = sqrt(chi2_df / df), by the trapezium rule in log s."""
    count = 24 if df >= 12 else 48 if df >= 3 else 240  # few degrees of freedom have a long tail towards 0
    low, high = np.log(stats.chi2.ppf([1e-13, 1 - 1e-13], df) / df) / 2
    nodes = np.linspace(low, high, count)
    logs = df * nodes - df * np.exp(2 * nodes) / 2
    weights = np.exp(logs - logs.max())
    return np.exp(nodes), weights / weights.sum()
