"""The simulation of looks at growing sweeps, in short: errors, coverage, savings; and its numbers stand in the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from scripts import sequential_errors
from scripts.sequential_errors import DIFFERENT, EQUIVALENT, LOOKS, MARGIN, SPREADS, Cell, effects, simulate
from train.report.contracts import Sample
from train.report.statistics.sequential import decide

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
SWEEPS = pytest.mark.parametrize("sweeps", [1_000, pytest.param(20_000, marks=pytest.mark.long)])


def most_false(sweeps: int) -> int:
    """Return a number of sweeps with a false claim that a rate of 5 % exceeds once in 1000 tests."""
    return int(stats.binom.ppf(0.999, sweeps, 0.05))


@SWEEPS
@pytest.mark.parametrize("spreads", list(SPREADS))
@pytest.mark.parametrize("arms", [1, 5, 12])
def test_looks_make_few_false_claims_and_cover_the_truth(sweeps: int, spreads: str, arms: int):
    for truth, margin in ((effects(arms), MARGIN), ((0.0,) * arms, 0.0), ((MARGIN,) * arms, MARGIN)):
        looked, _ = simulate(Cell(spreads, truth, margin=margin), sweeps)
        assert looked.false <= most_false(sweeps)
        assert looked.sweeps - looked.covered <= most_false(sweeps)


@SWEEPS
@pytest.mark.parametrize("arms", [5, 12])
def test_looks_save_runs_at_the_power_of_fixed_seeds(sweeps: int, arms: int):
    looked, fixed = simulate(Cell("equal", effects(arms)), sweeps, (24, 25))
    assert looked.runs_each <= 0.7 * fixed[25].runs_each
    assert looked.power >= fixed[24].power - 3 * (0.25 / sweeps / arms) ** 0.5
    assert looked.power >= fixed[25].power - 0.01


@SWEEPS
def test_verdicts_of_the_first_page_are_rarely_false_however_often_a_sweep_grows(sweeps: int):
    final, any_page, _ = sequential_errors.unplanned(LOOKS, 5, sweeps)
    assert final.false <= most_false(sweeps)
    assert any_page > 0.08, "without the rule, looks add up"


def test_simulated_decisions_are_those_of_the_report():
    """The vectorised procedure against one sweep and one look after the other."""
    truth = np.asarray(effects(5))
    values = sequential_errors.draw(np.random.default_rng(2), 30, LOOKS[-1], SPREADS["all different"](5), truth)
    ends = sequential_errors.in_looks(values, LOOKS, MARGIN)
    names = {"different": DIFFERENT, "equivalent": EQUIVALENT, "open": 0}
    for sweep, seeds, verdicts, runs in zip(values, ends.seeds, ends.verdicts, ends.runs, strict=True):
        expected: dict[str, Any] = {}
        for number, count in enumerate(LOOKS, start=1):
            arms = [Sample(str(i), tuple(sweep[i + 1, :count])) for i in range(5) if str(i) not in expected]
            for decision in decide(Sample("base", tuple(sweep[0, :count])), arms, LOOKS, number, MARGIN, 5):
                if decision.verdict != "open" or count == LOOKS[-1]:
                    expected[decision.arm] = (names[decision.verdict], count)
        assert [expected[str(i)] for i in range(5)] == list(zip(verdicts, seeds, strict=True))
        assert runs == sum(count for _, count in expected.values()) + max(count for _, count in expected.values())


def test_page_has_the_tables_of_the_script():
    """Their heads and first columns; the rates take minutes."""
    page = PAGE.read_text(encoding="utf-8")
    assert f"| {' | '.join(sequential_errors.HEAD)} |" in page
    assert all(f"| {spreads} | {arms} |" in page for spreads in SPREADS for arms in sequential_errors.ARMS)
    assert all(f"| {arms} | {effect:g} |" in page for arms in (1, 5, 12) for effect in sequential_errors.EFFECTS)
    assert f"{sequential_errors.SWEEPS:,} sweeps" in page
