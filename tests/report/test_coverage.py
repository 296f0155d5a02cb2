"""Coverage of the intervals and error rates of the claims, in simulated sweeps with known truth.

Bounds allow for the Monte-Carlo error: a procedure at its nominal rate meets each bound in all but one of 200 tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from train.report.claims import claims_of_arms, claims_of_grid
from train.report.contracts import Claim, Effect, Sample, Wording
from train.report.grid_contracts import Cell
from train.report.statistics.compare import compare, probability_better
from train.report.statistics.effects import factorial

SWEEPS = pytest.mark.parametrize("sweeps", [100, pytest.param(1000, marks=pytest.mark.long)])
SEEDS = 5
FACTORS = {"init": ("gaussian", "xavier", "kaiming"), "norm": ("none", "batch")}


@dataclass(frozen=True)
class Accuracy:
    name: str = "test accuracy"
    is_share: bool = True
    higher_is_better: bool = True


WORDING = Wording(Accuracy())


def fewest_covered(sweeps: int, rate: float = 0.95) -> int:
    return int(stats.binom.ppf(0.005, sweeps, rate))


def most_false(sweeps: int, rate: float = 0.05) -> int:
    return int(stats.binom.ppf(0.995, sweeps, rate))


def simulate_sweep(generator: np.random.Generator, means: Sequence[float], sds: Sequence[float]) -> list[Sample]:
    return [Sample(str(k), tuple(generator.normal(mean, sd, SEEDS))) for k, (mean, sd) in enumerate(zip(means, sds, strict=True))]


def covers(effect: Effect, truth: float) -> bool:
    assert effect.low is not None
    assert effect.high is not None
    return effect.low <= truth <= effect.high


MEANS = (0.80, 0.80, 0.81, 0.85, 0.70, 0.80)


@SWEEPS
@pytest.mark.parametrize(
    "sds",
    [
        (0.01, 0.01, 0.01, 0.01, 0.01, 0.01),
        (0.03, 0.01, 0.01, 0.01, 0.01, 0.01),
        (0.01, 0.01, 0.01, 0.01, 0.01, 0.04),
        (0.01, 0.005, 0.02, 0.0025, 0.04, 0.01),
    ],
    ids=["equal", "noisy baseline", "noisy arm", "all different"],
)
def test_compare_intervals_cover_the_truth_simultaneously(sweeps: int, sds: tuple[float, ...]) -> None:
    generator = np.random.default_rng(1)
    truth = [mean - MEANS[0] for mean in MEANS[1:]]
    covered = 0
    for _ in range(sweeps):
        baseline, *arms = simulate_sweep(generator, MEANS, sds)
        comparisons = compare(baseline, arms)
        covered += all(covers(comparison, value) for comparison, value in zip(comparisons, truth, strict=True))
    assert covered >= fewest_covered(sweeps)


def simulate_grid(
    generator: np.random.Generator, mean: Callable[[str, str], float], sd: float, *, missing_rate: float = 0.0
) -> list[Cell]:
    """Return a sweep of init x norm; every run is missing with probability `missing_rate`, at most two per cell."""
    cells = []
    for init in FACTORS["init"]:
        for norm in FACTORS["norm"]:
            count = SEEDS - min(2, int(generator.binomial(SEEDS, missing_rate)))
            cell_sd = sd * (3 if norm == "none" else 1)
            values = tuple(generator.normal(mean(init, norm), cell_sd, count))
            cells.append(Cell({"init": init, "norm": norm}, Sample(f"init={init} norm={norm}", values, missing=SEEDS - count)))
    return cells


@SWEEPS
@pytest.mark.parametrize("missing_rate", [0.0, 0.15], ids=["balanced", "some runs missing"])
def test_factorial_intervals_cover_the_truth_simultaneously(sweeps: int, missing_rate: float) -> None:
    """The truth has an interaction, and three times the spread without a norm."""
    generator = np.random.default_rng(4)
    gain = {"gaussian": 0.0, "xavier": 0.02, "kaiming": 0.03}

    def mean(init: str, norm: str) -> float:
        return 0.8 + (gain[init] if norm == "none" else 0.05)

    truth = {"xavier": 0.01, "kaiming": 0.015, "batch": 0.05 - 0.05 / 3}
    interaction_truth = {"xavier": -0.02, "kaiming": -0.03}
    covered = covered_interactions = 0
    for _ in range(sweeps):
        grid = factorial(simulate_grid(generator, mean, 0.01, missing_rate=missing_rate), FACTORS)
        covered += all(covers(effect, truth[effect.level]) for effect in grid.main)
        covered_interactions += all(covers(effect, interaction_truth[effect.first_level]) for effect in grid.interactions)
    assert covered >= fewest_covered(sweeps)
    assert covered_interactions >= fewest_covered(sweeps)


def claims_of(factors: Mapping[str, Sequence[str]], samples: Sequence[Sample]) -> tuple[Claim, ...]:
    comparisons = {comparison.arm: comparison for comparison in compare(samples[0], samples[1:])}
    return claims_of_arms(factors, comparisons, {sample.arm: sample for sample in samples}, "0", WORDING)


def is_different(claim: Claim) -> bool:
    """Return whether the claim says of any level that its mean differs from the baseline's."""
    return any(level.effect.excludes_zero for level in claim.levels)


@SWEEPS
def test_claims_of_arms_are_rarely_false_under_the_null(sweeps: int) -> None:
    """The family is all arms against the baseline."""
    generator = np.random.default_rng(6)
    factors = {"norm": ["1", "2", "3"], "init": ["4", "5"]}
    false = 0
    for _ in range(sweeps):
        samples = simulate_sweep(generator, [0.8] * 6, [0.01] * 6)
        claims = claims_of(factors, samples)
        false += any(is_different(claim) for claim in claims)
    assert 0 < false <= most_false(sweeps)


@SWEEPS
def test_claims_of_grid_are_rarely_false_under_the_null(sweeps: int) -> None:
    generator = np.random.default_rng(7)
    false = 0
    for _ in range(sweeps):
        cells = simulate_grid(generator, lambda *_: 0.8, 0.004)
        grid = factorial(cells, FACTORS)
        false += any(is_different(claim) for claim in claims_of_grid(grid, cells, WORDING))
    assert 0 < false <= most_false(sweeps)


@SWEEPS
def test_claims_of_small_effects_are_rarely_false(sweeps: int) -> None:
    """With small true differences, neither the direction of a claim nor its bound is wrong too often."""
    generator = np.random.default_rng(9)
    truth = {"1": 0.002, "2": -0.002, "3": 0.0, "4": 0.004, "5": 0.001}
    false = bounded = 0
    for _ in range(sweeps):
        samples = simulate_sweep(generator, [0.8, *(0.8 + value for value in truth.values())], [0.001] * 6)
        claims = claims_of({arm: [arm] for arm in truth}, samples)
        wrong = False
        for claim in claims:
            (level,) = claim.levels
            difference = truth[claim.factor]
            assert level.effect.bound is not None
            if level.effect.excludes_zero:
                wrong |= difference * level.effect.difference <= 0
            if level.verdict == "equivalent":
                bounded += 1
                wrong |= abs(difference) > level.effect.bound
        false += wrong
    assert bounded > sweeps
    assert false <= most_false(sweeps)


@SWEEPS
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_probability_better_interval_covers_the_truth(sweeps: int, shift: float) -> None:
    """Coverage of one unadjusted interval: five against five runs, one side with twice the spread."""
    generator = np.random.default_rng(11)
    truth = float(stats.norm.cdf(shift / np.sqrt(1 + 4)))
    covered = 0
    for _ in range(sweeps):
        probability = probability_better(tuple(generator.normal(shift, 2, SEEDS)), tuple(generator.normal(0, 1, SEEDS)))
        covered += probability.low <= truth <= probability.high
    assert covered >= fewest_covered(sweeps)
