"""Comparisons of arms of which not all runs trained: what the runs that did not may hide, and how often claims err."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from scripts.outcome_errors import claims_made
from tests.report.test_claims import BASE, FACTORS, PATTERN, WORDING, arm, claim_of
from tests.report.test_outcome import OPTIONS, untrained, write_arms
from train.report.claims import claims_of_grid
from train.report.contracts import Facts, Sample
from train.report.grid_contracts import Cell
from train.report.make import analyse_folders
from train.report.statistics.effects import factorial
from train.report.statistics.trimming import surplus, trimmed_effects


def lost(name: str, mean: float, count: int, sd: float = 0.002) -> Sample:
    """Return an arm of five runs of which `count` learned nothing."""
    values = tuple(mean + sd * PATTERN[: 5 - count])
    return Sample(name, values, tuple(range(5 - count)), untrained=count)


def test_one_run_at_chance_does_not_hide_a_clear_difference():
    claim = claim_of(lost("norm=batch", 0.85, 1))
    assert claim.heading == "better"
    assert "4 of 5 runs (80 %, 95 % CI 38 to 96) with norm=batch and 5 of 5 runs (100 %" in claim.sentence
    assert "leaving out the lowest or the highest 1 of norm=none does not change the verdict" in claim.sentence
    assert "The rates of training do not differ significantly (exact test, p = 1)." in claim.sentence


@pytest.mark.parametrize(
    ("treatment", "reason"),
    [
        (lost("norm=batch", 0.803, 1), "a selection may explain so small a difference"),
        (lost("norm=batch", 0.85, 4), "one run is left"),
        (lost("norm=batch", 0.85, 3), "two of five are too few to be sure"),
        (Sample("norm=batch", (0.85, 0.851, 0.849), untrained=1, diverged=1), "divergence is reported as it is"),
    ],
)
def test_selection_that_may_matter_is_not_comparable(treatment, reason):
    claim = claim_of(treatment, base=arm("norm=none", 0.8, 0.01) if "too few" in reason else BASE)
    assert claim.heading == "not comparable", reason
    assert "those that trained are a selection" in claim.sentence
    assert (", on which the verdict depends" in claim.sentence) == ("differ significantly: " not in claim.sentence)


def test_rates_that_differ_significantly_are_the_result_however_large_the_difference():
    values = tuple(0.85 + 0.001 * PATTERN)
    claim = claim_of(Sample("norm=batch", values, untrained=5), base=Sample("norm=none", (*values, *values), ()))
    assert claim.heading == "not comparable"
    assert "The rates of training differ significantly: norm=none trains more often" in claim.sentence


def test_surplus_runs_are_left_out_at_either_end():
    """By hand: 4 of 5 on one side explain 4 of the 5 runs of the other."""
    more, fewer = Sample("a", (0.1, 0.2, 0.3, 0.4, 0.9)), Sample("b", (0.0, 0.1, 0.2, 0.3), untrained=1)
    assert (surplus(more, fewer), surplus(fewer, more)) == (1, 0)
    low, high = trimmed_effects(more, fewer, 1)
    assert (low.difference, high.difference) == pytest.approx((0.45 - 0.15, 0.25 - 0.15))
    expected = stats.ttest_ind((0.2, 0.3, 0.4, 0.9), fewer.values, equal_var=False).confidence_interval()
    assert (low.low, low.high) == pytest.approx((expected.low, expected.high))
    assert trimmed_effects(fewer, replace(fewer, arm="c"), 1) == ()
    assert surplus(Sample("a", tuple(range(7))), fewer) == 2, "7 - 4/5 of 7 = 1.4, rounded up"


def test_claim_with_equal_rates_says_them():
    claim = claim_of(lost("norm=batch", 0.85, 1), base=lost("norm=none", 0.8, 1))
    assert claim.heading == "better"
    assert "4 of 5 runs (80 %, 95 % CI 38 to 96) with norm=none trained." in claim.sentence
    assert "leaving out" not in claim.sentence
    tuned = claim_of(lost("norm=batch", 0.85, 1), base=lost("norm=none", 0.8, 1), facts=Facts(tuned=True))
    assert "trained at the level chosen for each arm." in tuned.sentence


def test_one_run_of_a_grid_at_chance_leaves_the_other_combinations():
    means = {("gaussian", "none"): 0.80, ("xavier", "none"): 0.80, ("gaussian", "batch"): 0.85}
    cells = [Cell({"init": i, "norm": n}, arm(f"{i} {n}", mean)) for (i, n), mean in means.items()]
    cells.append(Cell({"init": "xavier", "norm": "batch"}, untrained("xavier batch", 4, 5)))
    _, norm = claims_of_grid(factorial(cells, FACTORS), cells, WORDING)
    assert norm.heading == "better"
    assert "over 1 of the 2 combinations of the other factors in which every run trained" in norm.sentence
    assert "9 of 10 runs (90 %" in norm.sentence
    assert "exact test within the combinations of the other factors, p = 1" in norm.sentence


def test_analysis_compares_an_arm_with_one_run_at_chance(tmp_path):
    folder = write_arms(tmp_path, {"batch": [0.85, 0.851, 0.852, 0.849, 0.85], "none": [0.80, 0.801, 0.802, 0.8, 0.1]})
    analysis = analyse_folders([folder], OPTIONS)
    (claim,) = analysis.claims
    assert claim.heading == "worse"
    assert "leaving out the lowest or the highest 1 of norm=batch (baseline) does not change the verdict" in claim.sentence
    assert len(analysis.comparable) == 1


@pytest.mark.parametrize("worst", [False, True])
def test_claims_about_arms_that_do_not_always_train_keep_their_error_rate(worst):
    *_, by_rule = claims_made(5, 0.8, worst=worst, difference=0.0, sweeps=60)
    assert by_rule <= 0.05
    *_, only_equal, by_rule = claims_made(5, 0.8, worst=worst, difference=5.0, sweeps=30)
    assert by_rule >= 0.85
    assert only_equal <= 0.5
